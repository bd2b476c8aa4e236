"""What a place that shares engines has: ``index.json``, and the plans it lists beside it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio.engines.cache import told
from studio.engines.entry import Entry, Facts, check_plan, plan_name
from studio.engines.key import EngineKey
from studio.errors import FetchError

INDEX = "index.json"
FORMAT = 1
MOST_INDEX_BYTES = 8 << 20
_SAFE_PATH = re.compile(
    r"(?!.*(^|/)\.)[\w.-]+(/[\w.-]+)*"
)  # relative, forward, and no part begins with a dot
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Offer:
    """An engine that a place offers."""

    key: EngineKey
    file: str  # relative to the index
    sha256: str
    size: int
    facts: Facts


def parse_index(content: bytes, place: str) -> list[Offer]:
    """The offers of an index. One bad line condemns the place: raises FetchError that names it."""
    try:
        index = json.loads(content)
        if index["format"] != FORMAT:
            raise ValueError(f"its format is {index['format']!r}, and {FORMAT} is understood here")
        return [_parse_offer(each) for each in index["engines"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FetchError(
            f"The engine index of {place} cannot be used: {error}.",
            state="Nothing was taken from there.",
            hint="Ask whoever keeps that place, or leave it out of --engine-sources.",
        ) from error


def _parse_offer(content: Any) -> Offer:
    key = EngineKey.parse(content["key"])
    file, sha256, size = content["file"], content["sha256"], content["size"]
    if not isinstance(file, str) or not _SAFE_PATH.fullmatch(file):
        raise ValueError(f"it lists the path {file!r}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"it lists the checksum {sha256!r}")
    if type(size) is not int or size <= 0:
        raise ValueError(f"it lists the size {size!r}")
    return Offer(key, file, sha256, size, Facts.parse(content["facts"]))


def export(entries: Iterable[Entry], folder: Path) -> list[Entry]:
    """Add ``entries`` to the place in ``folder``, made where there is none; returns them.

    Raises Unfit for an entry whose plan is damaged, CacheError, and FetchError when the folder holds a
    foreign index.
    """
    shared = list(entries)
    with told(f"The engines could not be exported to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        index = folder / INDEX
        offers = parse_index(index.read_bytes(), str(folder)) if index.is_file() else []
        by_name = {offer.key.name: offer for offer in offers}
        for entry in shared:
            check_plan(entry)
            name = plan_name(entry.key)
            partial = folder / f".{name}"
            shutil.copyfile(entry.plan, partial)
            partial.replace(folder / name)
            by_name[entry.key.name] = Offer(entry.key, name, entry.sha256, entry.size, entry.facts)
        content = {"format": FORMAT, "engines": [asdict(offer) for _, offer in sorted(by_name.items())]}
        partial = folder / f".{INDEX}"
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(index)
    return shared

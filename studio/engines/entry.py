"""One engine on disk: the plan, and the sidecar beside it that says what it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from studio.engines import components
from studio.engines.key import EngineKey
from studio.engines.verified import sha256
from studio.errors import why
from triton_models.diffusion.manifest import Engine

SIDECAR = "engine.json"
_MOST_SIDECAR_BYTES = 1 << 20


class Unfit(Exception):
    """An entry that must not be used; the message is the reason, as a clause."""


@dataclass(frozen=True)
class Facts:
    """What the sidecar tells beside the key. Nothing here decides whether an engine may be used."""

    gpu: str = ""
    driver: str = ""
    origin: str = "built here"
    built_at: str = ""
    build_seconds: float = 0.0
    workspace: int = 0  # bytes
    latency_ms: float | None = None  # of one run at the best shape, where it was tried
    checkpoint: str = ""
    rejected: str = ""  # why it must not serve, though it runs: a clause

    @staticmethod
    def parse(content: Any) -> Facts:
        """The facts from JSON. Raises TypeError and ValueError."""
        facts = Facts(**content)
        for each in fields(Facts):
            value = getattr(facts, each.name)
            if not isinstance(value, (str,) if each.type == "str" else (int, float, NoneType)):
                raise ValueError(f"{each.name} is {value!r}")
        return facts


@dataclass(frozen=True)
class Entry:
    """An engine in the cache."""

    folder: Path
    key: EngineKey
    sha256: str
    size: int
    facts: Facts

    @property
    def plan(self) -> Path:
        return self.folder / plan_name(self.key)

    @property
    def engine(self) -> Engine:
        """The engine as the models are told of it."""
        if self.key.component == components.TEXT_ENCODER.name:  # prompts are not pictures
            return Engine(self.key.flavour, str(self.plan), self.key.precision, self.key.name)
        profile = self.key.profile
        return Engine(
            self.key.flavour,
            str(self.plan),
            self.key.precision,
            self.key.name,
            profile.batch,
            profile.height,
            profile.width,
        )


def plan_name(key: EngineKey) -> str:
    """Of the plan's file. Not the same for all: runtimes name what they compile after it."""
    return f"{key.name}.plan"


def read_entry(folder: Path) -> Entry:
    """The entry that ``folder``'s sidecar describes. Raises Unfit when it describes none."""
    sidecar = folder / SIDECAR
    try:
        if sidecar.stat().st_size > _MOST_SIDECAR_BYTES:
            raise Unfit("its sidecar is far too large to be one")
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        key = EngineKey.parse(content["key"])
        facts = Facts.parse(content["facts"])
        entry = Entry(folder, key, str(content["sha256"]), int(content["size"]), facts)
    except FileNotFoundError:
        raise Unfit("its sidecar is missing") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unfit(f"its sidecar cannot be read ({error})") from error
    if content.get("name") != key.name:
        raise Unfit("its sidecar's name is not that of the key")
    return entry


def write_sidecar(folder: Path, entry: Entry) -> None:
    """Write ``entry``'s sidecar into ``folder``, atomically. Raises OSError."""
    content = {
        "name": entry.key.name,
        "key": asdict(entry.key),
        "sha256": entry.sha256,
        "size": entry.size,
        "facts": asdict(entry.facts),
    }
    partial = folder / f".{SIDECAR}"
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(folder / SIDECAR)


def check_plan(entry: Entry) -> None:
    """Raises Unfit unless the plan has the size and checksum that the sidecar names."""
    try:
        size = entry.plan.stat().st_size
        if size != entry.size:
            raise Unfit(f"its plan has {size} bytes instead of {entry.size}")
        if sha256(entry.plan) != entry.sha256:
            raise Unfit("its plan's checksum is wrong")
    except OSError as error:
        raise Unfit(f"its plan cannot be read ({why(error)})") from error

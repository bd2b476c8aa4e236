"""Folders whose content is known to be what was written: sealed with SHA256SUMS, checked at every use."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

SUMS = "SHA256SUMS"  # readable by `sha256sum -c`
SEEN = ".verified.json"  # size and time of large files when they last passed
ALWAYS_HASHED_BYTES = 64 << 20


def seal(folder: Path) -> None:
    """Write the checksum of every file in ``folder`` to ``SHA256SUMS``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (SUMS, SEEN))
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def intact(folder: Path) -> bool:
    """Whether every sealed file is there and unchanged.

    Files up to 64 MiB are hashed each time; larger ones when their size or time differs from when
    they last passed.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        return bool(expected) and _all_pass(folder, expected)
    except (OSError, ValueError):
        return False


def _all_pass(folder: Path, expected: dict[str, str]) -> bool:
    seen = _read_seen(folder / SEEN)
    large: dict[str, list[int]] = {}
    for name, digest in expected.items():
        stat = (folder / name).stat()
        mark = [stat.st_size, stat.st_mtime_ns]
        if stat.st_size > ALWAYS_HASHED_BYTES:
            large[name] = mark
            if seen.get(name) == mark:
                continue
        if sha256(folder / name) != digest:
            return False
    if large != seen:
        with contextlib.suppress(OSError):  # a cache that cannot be written can still be used
            (folder / SEEN).write_text(json.dumps(large), encoding="utf-8")
    return True


def _read_seen(path: Path) -> dict[str, list[int]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def sha256(path: Path) -> str:
    """Of the file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What a safetensors file says of itself, read without loading a tensor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import CheckpointError, why

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
WHOLE_FILE_BYTES = 64 << 20
SAMPLE_BYTES = 1024
PICKLES = {".ckpt", ".pt", ".pth", ".bin"}


@dataclass(frozen=True)
class Header:
    """The table of contents of one safetensors file."""

    path: Path
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    spans: tuple[tuple[int, int], ...]  # first and one past the last byte of every tensor, in the file
    raw: bytes


def refuse_pickle(path: Path) -> None:
    """Raise CheckpointError for a file type that can run code when it is opened."""
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path.name} is a pickle, and opening a pickle can run any program hidden in it.",
            hint="Use the .safetensors version of this checkpoint; nearly every model page offers one.",
        )


def read_header(path: Path) -> Header:
    """Read and check the header of ``path``: raises CheckpointError for a damaged or truncated file."""
    refuse_pickle(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(path, "it does not begin like a safetensors file")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {why(error)}.") from error
    try:
        table: dict[str, Any] = json.loads(raw)
        metadata = table.pop("__metadata__", {})
        shapes = {name: tuple(entry["shape"]) for name, entry in table.items()}
        offsets = [entry["data_offsets"] for entry in table.values()]
        spans = tuple(sorted((8 + length + first, 8 + length + last) for first, last in offsets))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its table of contents cannot be read") from error
    expected = max((last for _, last in spans), default=8 + length)
    if expected != size:
        raise _damaged(path, f"it has {size:,} bytes where {expected:,} were promised")
    return Header(path, metadata, shapes, spans, raw)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is damaged or was not downloaded to its end: {why}.",
        hint="Delete it and download it again.",
    )


def digest_weights(header: Header) -> str:
    """A digest of the file's content that takes well under a second for any size.

    Small files are hashed whole. Of large ones the header (every name, type, shape and offset) and
    the first and last KiB of every tensor are: training, merging and converting all change those,
    while reading four gigabytes at every start would take longer than everything else together.
    """
    digest = hashlib.sha256(header.raw)
    with header.path.open("rb") as file:
        if file.seek(0, 2) <= WHOLE_FILE_BYTES:
            file.seek(0)
            digest.update(file.read())
            return digest.hexdigest()
        for first, last in header.spans:
            for start in (first, max(first, last - SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(min(SAMPLE_BYTES, last - start)))
    return digest.hexdigest()

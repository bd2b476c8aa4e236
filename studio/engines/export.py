"""A checkpoint to ONNX: once, checked against torch, and kept under its digest.

The folder ``onnx/<digest>-<GRAPH_VERSION>…/`` holds one file per component, ``model.json``,
``tokenizer/`` and ``SHA256SUMS``. It appears whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

from studio.checkpoint import Checkpoint
from studio.engines import verified
from studio.errors import CacheError, why
from studio.report import Report, silent

GRAPH_VERSION = 1  # of the graphs' meaning: raise it and every checkpoint is exported again


def export(
    checkpoint: Checkpoint,
    cache_dir: Path,
    report: Report = silent,
    *,
    precision: str = "fp32",
    wide_precision: str = "fp32",
) -> Path:
    """The folder of the checkpoint's ONNX components, made now unless it is there and intact.

    ``precision`` is fp32 or fp16, of weights and computation; inputs and outputs are the same. A component
    whose values leave fp16's range is exported in ``wide_precision``, bf16 or fp32, instead; ``model.json``
    says so. One file serves every size. Raises ExportError, CheckpointError or CacheError.
    """
    folder = cache_dir / "onnx" / _folder_name(checkpoint, precision, wide_precision)
    if verified.intact(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder, report):
            if not verified.intact(folder):
                _make(checkpoint, folder, precision, wide_precision, report)
    except OSError as error:
        raise CacheError(
            f"The exported checkpoint could not be written to {folder.parent}: {why(error)}.",
            state="Nothing was kept of it.",
            hint="Free some space there, or name another folder with STUDIO_CACHE.",
        ) from error
    return folder


def exported(
    checkpoint: Checkpoint, cache_dir: Path, precision: str = "fp32", wide_precision: str = "fp32"
) -> Path | None:
    """The folder of an earlier export when it is there and intact; makes nothing."""
    folder = cache_dir / "onnx" / _folder_name(checkpoint, precision, wide_precision)
    return folder if verified.intact(folder) else None


def _folder_name(checkpoint: Checkpoint, precision: str, wide_precision: str) -> str:
    precisions = precision if precision == "fp32" else f"{precision}-{wide_precision}"
    return f"{checkpoint.digest[:16]}-g{GRAPH_VERSION}-{precisions}"


def _alone(folder: Path, report: Report) -> FileLock:
    """A lock on ``folder``, so that a second studio waits for the first instead of doing the same."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        report("Waiting for another studio that is preparing this checkpoint", None)
        lock.acquire()
    return lock


def _make(checkpoint: Checkpoint, folder: Path, precision: str, wide_precision: str, report: Report) -> None:
    from studio.engines.trace import write_components  # torch is imported only when there is work for it

    for abandoned in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir()
    started = time.monotonic()
    try:
        write_components(checkpoint, partial, precision, wide_precision, report)
        verified.seal(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report(f"Prepared {checkpoint.name} in {time.monotonic() - started:.0f} s", 1.0)

"""resolve() and load(): the two things that the rest of the studio asks of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.checkpoint.checkpoint import Checkpoint
from studio.checkpoint.folder import inspect_folder, load_folder
from studio.checkpoint.weights import refuse_pickle
from studio.errors import CheckpointError
from studio.report import Report, silent

BUNDLED = Path(__file__).resolve().parents[2] / "assets" / "postcards"


def resolve(model: str, report: Report = silent) -> Checkpoint:
    """Find the checkpoint that ``model`` names: "" (bundled), a folder, a .safetensors file, or owner/name.

    Reads headers and configurations only; a Hub id is downloaded unless it is here already.
    Raises CheckpointError.
    """
    if not model:
        return inspect_folder(BUNDLED, BUNDLED.name, "")
    path = Path(model).expanduser()
    refuse_pickle(path)
    if path.is_dir():
        return inspect_folder(path.resolve(), path.resolve().name, model)
    raise CheckpointError(f"No checkpoint is found at {model}.")


def load(checkpoint: Checkpoint) -> Any:
    """The checkpoint's StableDiffusionPipeline, float32 on the CPU. Raises CheckpointError."""
    return load_folder(checkpoint.path)

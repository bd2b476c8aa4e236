"""resolve() and load(): the two things that the rest of the studio asks of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.checkpoint.checkpoint import Checkpoint
from studio.checkpoint.folder import inspect_folder, load_folder
from studio.checkpoint.hub import fetch, is_hub_id
from studio.checkpoint.quiet import quiet
from studio.checkpoint.single_file import inspect_file, load_file
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
    if path.is_file():
        return inspect_file(path.resolve(), model)
    if is_hub_id(model):
        return fetch(model, report)
    raise CheckpointError(
        f"There is no checkpoint at {model}.",
        hint="Name a diffusers folder, a .safetensors file, or a model of huggingface.co as owner/name.",
    )


def load(checkpoint: Checkpoint, report: Report = silent) -> Any:
    """The checkpoint's StableDiffusionPipeline, float32 on the CPU. Raises CheckpointError."""
    try:
        with quiet():
            return (
                load_file(checkpoint, report) if checkpoint.path.is_file() else load_folder(checkpoint.path)
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # what the libraries raise
        raise CheckpointError(
            f"{checkpoint.name} could not be loaded: {str(error).strip().splitlines()[0]}",
            hint="Its files do not fit together: try another copy of it.",
        ) from error

"""What a resolved checkpoint is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine's disk that the studio can export."""

    name: str  # for people, such as "postcards"
    source: str  # what the artist asked for: "" (bundled), a path, or a Hub id
    path: Path  # a diffusers folder, or one .safetensors file
    family: str  # "sd1" or "sd2"
    prediction_type: (
        str  # "epsilon", "v_prediction", or "unknown" until loaded (SD 2.x single files do not say)
    )
    digest: str  # of everything in it that changes its pictures; hexadecimal
    default_size: tuple[int, int]  # width, height in pixels

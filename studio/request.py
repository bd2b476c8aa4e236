"""What the studio is asked for, what it says on the way, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from triton_models.diffusion import fields

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageRequest:
    """One press of Generate. Sizes in pixels; None takes the checkpoint's own size."""

    prompt: str
    negative_prompt: str = ""
    steps: int = int(fields.STEPS.default or 0)
    guidance_scale: float = float(fields.GUIDANCE.default or 0)
    seed: int = int(fields.SEED.default or 0)
    sampler: str = str(fields.SAMPLER.default)
    width: int | None = None
    height: int | None = None
    num_images: int = int(fields.NUM_IMAGES.default or 0)
    image: Pixels | None = field(default=None, compare=False)  # [height, width, 3] RGB to start from
    strength: float = float(fields.STRENGTH.default or 0)


@dataclass(frozen=True)
class Span:
    """A stretch of the work: when it began and how long it took, in seconds from the press of Generate."""

    stage: str  # "queue", "text_encode", "image_encode", "step", "decode", "transfer", "save", "restart"
    start: float
    seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a picture stands. ``previews`` is [num_images, height / 8, width / 8, 3] RGB or None."""

    stage: str
    step: int = 0
    steps: int = 0
    previews: Pixels | None = None
    steps_per_second: float = 0.0
    eta_seconds: float | None = None


@dataclass(frozen=True)
class ImageResult:
    """The pictures of one request. ``images`` is [num_images, height, width, 3] RGB."""

    request: ImageRequest  # as asked, with the seed, width and height that were used
    images: Pixels
    seeds: tuple[int, ...]
    spans: tuple[Span, ...]
    engine: str  # the denoiser's, such as "tensorrt fp16"
    model: str
    files: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()  # such as a picture that could not be saved, or words that did not fit

    @property
    def saved(self) -> bool:
        """Whether every picture has its file."""
        return len(self.files) == len(self.seeds)

    @property
    def seconds(self) -> float:
        """From the press of Generate to the last picture saved."""
        return max((span.start + span.seconds for span in self.spans), default=0.0)

"""The fields of an image request: the one place that knows their types, ranges and defaults.

The pipelines check requests against it, the studio draws its controls from it, and the
configuration files of the pipelines are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SIZE_MULTIPLE = 8
MAX_PROMPT_BYTES = 100_000
MAX_IMAGES = 8


@dataclass(frozen=True)
class Field:
    """One input tensor of the pipelines: Triton type, value range (inclusive) and default."""

    name: str
    dtype: str  # Triton's name of the type, as in config.pbtxt
    low: float | None = None
    high: float | None = None
    default: int | float | str | None = None
    help: str = ""


PROMPT = Field("prompt", "TYPE_STRING", help="what to draw")
NEGATIVE_PROMPT = Field("negative_prompt", "TYPE_STRING", default="", help="what to keep out")
STEPS = Field("num_inference_steps", "TYPE_INT32", 1, 150, 20, help="denoising steps")
GUIDANCE = Field("guidance_scale", "TYPE_FP32", 0.0, 30.0, 7.0, help="how closely to follow the prompt")
SEED = Field("seed", "TYPE_INT64", -1, 2**63 - 1, -1, help="where the noise starts; -1 draws one")
SAMPLER = Field("sampler", "TYPE_STRING", default="DPM++ 2M Karras", help="how to walk from noise to picture")
WIDTH = Field(
    "width", "TYPE_INT32", 64, 2048, None, help="pixels, a multiple of 8; default: the checkpoint's"
)
HEIGHT = Field(
    "height", "TYPE_INT32", 64, 2048, None, help="pixels, a multiple of 8; default: the checkpoint's"
)
NUM_IMAGES = Field(
    "num_images", "TYPE_INT32", 1, MAX_IMAGES, 1, help="pictures at once, with seeds seed, seed+1, …"
)
IMAGE = Field("image", "TYPE_UINT8", help="the picture to start from")
STRENGTH = Field("strength", "TYPE_FP32", 0.0, 1.0, 0.6, help="how far to go from the picture; 1 forgets it")

TEXT_TO_IMAGE = (PROMPT, NEGATIVE_PROMPT, STEPS, GUIDANCE, SEED, SAMPLER, WIDTH, HEIGHT, NUM_IMAGES)
IMAGE_TO_IMAGE = (*TEXT_TO_IMAGE, IMAGE, STRENGTH)

NUMPY_TYPES: dict[str, npt.DTypeLike] = {
    "TYPE_STRING": np.object_,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP32": np.float32,
    "TYPE_UINT8": np.uint8,
}

"""What a sampler compiles to: one matrix a step.

Every sampler here is linear in the latents, the model's outputs and the noise. So a step is
``new_state = update @ [state, model output, noise]``, where ``state`` is STATE_SLOTS tensors of the
latents' shape: slot 0 the current latents, the others whatever the sampler remembers.

A sampler is written with *vectors*: coefficients over (slots…, model output, noise). LATENTS, OUTPUT
and NOISE are the unit vectors, so ``LATENTS - sigma * OUTPUT`` reads, and is, the formula in its paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..manifest import STATE_SLOTS

Vector: TypeAlias = npt.NDArray[np.float64]  # [STATE_SLOTS + 2]

_UNIT = np.eye(STATE_SLOTS + 2)
LATENTS: Vector = _UNIT[0]
MEMORY: tuple[Vector, ...] = tuple(_UNIT[1:STATE_SLOTS])  # slots 1…: what the row before put there
OUTPUT: Vector = _UNIT[STATE_SLOTS]
NOISE: Vector = _UNIT[STATE_SLOTS + 1]


@dataclass(frozen=True)
class Row:
    """One call of the model: what it is given, and what becomes of its output."""

    timestep: float
    input_scale: float  # the model sees input_scale · latents
    update: npt.NDArray[np.float64]  # [STATE_SLOTS, STATE_SLOTS + 2]
    denoised_scale: tuple[float, float]  # predicted x0 = [0] · latents + [1] · model output
    step: int  # the step it belongs to, from 0; some samplers call the model twice in one

    @property
    def draws_noise(self) -> bool:
        """Whether this row uses fresh noise."""
        return bool(np.any(self.update[:, -1]))


@dataclass(frozen=True)
class Table:
    """A whole walk from noise to picture.

    It starts from ``initial[0] · image latents + initial[1] · noise``; from text there are no image
    latents. No rows (image to image with too little strength for one step) leaves the image as it is.
    """

    rows: tuple[Row, ...]
    initial: tuple[float, float]

    @property
    def steps(self) -> int:
        """How many steps the rows make."""
        return self.rows[-1].step + 1 if self.rows else 0


def row(
    step: int, timestep: float, denoised: Vector, new_state: list[Vector], input_scale: float = 1.0
) -> Row:
    """A Row from vectors: the predicted x0, and the new content of the slots (zero where none is given)."""
    update = np.zeros((STATE_SLOTS, STATE_SLOTS + 2))
    update[: len(new_state)] = new_state
    return Row(
        float(timestep),
        float(input_scale),
        update,
        (float(denoised @ LATENTS), float(denoised @ OUTPUT)),
        step,
    )

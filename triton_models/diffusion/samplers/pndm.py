"""PNDM without its Runge–Kutta start (PLMS): Liu et al. 2022 (arXiv:2202.09778, equations 9 and 12)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..manifest import ModelInfo
from .ddim import mix, noise_in
from .path import Path, even, through
from .table import LATENTS, MEMORY, OUTPUT, Row, row

# Adams–Bashforth weights of the newest model output first, by how many are known.
_WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def second_twice(info: ModelInfo, steps: int) -> Path:
    """Evenly spread timesteps, the second one twice: the first step is made again from its far end."""
    timesteps = even("leading", whole=True)(info, steps).timesteps
    return through(info, steps, np.insert(timesteps, 1, timesteps[1:2]))


def pndm(path: Path, start: int) -> Iterator[Row]:
    """Linear multistep over the model's last four outputs, each step moving as DDIM would.

    Within a path (image to image) the step that is made again begins a stride too early, as in diffusers.
    """
    outputs, came_from = MEMORY[:3], MEMORY[3]
    for made, timestep in enumerate(path.timesteps[start:]):
        again = made == 1
        begin = timestep + path.stride if again else timestep
        sigma, target = path.trained_sigma(begin), path.trained_sigma(begin - path.stride)
        latents = came_from if again else LATENTS
        if again:
            output, known = (OUTPUT + outputs[0]) / 2, list(outputs)
        else:
            known = [OUTPUT, *outputs]
            weights = _WEIGHTS[min(max(made - 1, 0), 3)]
            output = sum((w * o for w, o in zip(weights, known, strict=False)), np.zeros_like(OUTPUT))
        x0 = path.denoised(sigma, latents, output)
        moved = mix(x0, noise_in(latents, x0, sigma), target)
        seen = path.denoised(path.trained_sigma(timestep), LATENTS)
        yield row(max(made - 1, 0), timestep, seen, [moved, *known[:3], latents])

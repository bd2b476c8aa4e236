"""Latent consistency models: Luo et al. 2023 (arXiv:2310.04378, algorithm 3); no guidance embedding."""

from __future__ import annotations

from collections.abc import Iterator

from .ddim import mix
from .path import Path
from .table import LATENTS, NOISE, Row, row

_SIGMA_DATA = 0.5
_TIMESTEP_SCALE = 10.0


def lcm(path: Path, start: int) -> Iterator[Row]:
    """Jumps to x0 and back up with fresh noise; the last row stays there."""
    last = len(path.timesteps) - 1
    for i in range(start, last + 1):
        x0 = path.denoised(path.sigmas[i], LATENTS)
        scaled = (path.timesteps[i] * _TIMESTEP_SCALE) / _SIGMA_DATA
        consistent = LATENTS / (scaled**2 + 1) + x0 * scaled / (scaled**2 + 1) ** 0.5
        latents = consistent if i == last else mix(consistent, NOISE, path.sigmas[i + 1])
        yield row(i - start, path.timesteps[i], x0, [latents])

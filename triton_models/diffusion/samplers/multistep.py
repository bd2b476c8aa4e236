"""DPM-Solver++ multistep of second order: Lu et al. 2022 (arXiv:2211.01095, algorithm 2 and section 5)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .path import Path, levels
from .table import LATENTS, MEMORY, NOISE, Row, Vector, row


def dpm_2m(path: Path, start: int) -> Iterator[Row]:
    """The ODE solver."""
    for i in range(start, len(path.timesteps)):
        x0, data, decay = _look(path, i, start)
        (_, noise), (signal, new_noise) = levels(path.sigmas[i]), levels(path.sigmas[i + 1])
        latents = new_noise / noise * LATENTS + signal * (1 - decay) * data
        yield row(i - start, path.timesteps[i], x0, [latents, x0])


def dpm_2m_sde(path: Path, start: int) -> Iterator[Row]:
    """The SDE solver: twice the pull to the data, and fresh noise."""
    for i in range(start, len(path.timesteps)):
        x0, data, decay = _look(path, i, start)
        (_, noise), (signal, new_noise) = levels(path.sigmas[i]), levels(path.sigmas[i + 1])
        latents = new_noise / noise * decay * LATENTS + signal * (1 - decay**2) * data
        latents = latents + new_noise * np.sqrt(1 - decay**2) * NOISE
        yield row(i - start, path.timesteps[i], x0, [latents, x0])


def _look(path: Path, i: int, start: int) -> tuple[Vector, Vector, float]:
    """Predicted x0, x0 extrapolated to the middle of the step, and exp(−h) of the step in log-SNR/2.

    The first step and the last, to zero noise, are of first order.
    """
    sigma, target = path.sigmas[i], path.sigmas[i + 1]
    x0 = data = path.denoised(sigma, LATENTS)
    if start < i < len(path.timesteps) - 1:
        last_step, this_step = np.log(path.sigmas[i - 1] / sigma), np.log(sigma / target)
        data = x0 + this_step / last_step / 2 * (x0 - MEMORY[0])
    return x0, data, target / sigma

"""Euler, Euler ancestral, Heun: Karras et al. 2022, algorithm 1 and k-diffusion (arXiv:2206.00364).

The latents are ``x0 + sigma·ε``; an ODE step follows the derivative ``(x − x0) / sigma``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .path import Path, input_scale
from .table import LATENTS, MEMORY, NOISE, Row, Vector, row


def euler(path: Path, start: int) -> Iterator[Row]:
    """One derivative a step."""
    for i in range(start, len(path.timesteps)):
        sigma, target = path.sigmas[i], path.sigmas[i + 1]
        x0, derivative = _look(path, sigma)
        latents = LATENTS + (target - sigma) * derivative
        yield row(i - start, path.timesteps[i], x0, [latents], input_scale(sigma))


def euler_ancestral(path: Path, start: int) -> Iterator[Row]:
    """Steps further down than asked, and comes back up with fresh noise."""
    for i in range(start, len(path.timesteps)):
        sigma, target = path.sigmas[i], path.sigmas[i + 1]
        up = target * np.sqrt(sigma**2 - target**2) / sigma
        down = np.sqrt(target**2 - up**2)
        x0, derivative = _look(path, sigma)
        latents = LATENTS + (down - sigma) * derivative + up * NOISE
        yield row(i - start, path.timesteps[i], x0, [latents], input_scale(sigma))


def heun(path: Path, start: int) -> Iterator[Row]:
    """Looks again where Euler would land and takes the mean derivative; the last step is Euler's."""
    came_from, first_derivative = MEMORY[:2]
    for i in range(start, len(path.timesteps)):
        sigma, target = path.sigmas[i], path.sigmas[i + 1]
        x0, derivative = _look(path, sigma)
        guess = LATENTS + (target - sigma) * derivative
        yield row(i - start, path.timesteps[i], x0, [guess, LATENTS, derivative], input_scale(sigma))
        if target > 0:
            x0, derivative = _look(path, target)
            latents = came_from + (target - sigma) * (first_derivative + derivative) / 2
            yield row(i - start, path.timesteps[i + 1], x0, [latents], input_scale(target))


def _look(path: Path, sigma: float) -> tuple[Vector, Vector]:
    """Predicted x0 and derivative at ``sigma``."""
    x0 = path.denoised(sigma, input_scale(sigma) * LATENTS)
    return x0, (LATENTS - x0) / sigma

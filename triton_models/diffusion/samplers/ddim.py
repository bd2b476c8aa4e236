"""DDIM: Song et al. 2020 (arXiv:2010.02502, equation 12 with no noise)."""

from __future__ import annotations

from collections.abc import Iterator

from .path import Path, levels
from .table import LATENTS, Row, Vector, row


def ddim(path: Path, start: int) -> Iterator[Row]:
    """Predicts x0 and the noise, and mixes them anew for the next level."""
    for i in range(start, len(path.timesteps)):
        timestep = path.timesteps[i]
        sigma = path.trained_sigma(timestep)
        x0 = path.denoised(sigma, LATENTS)
        latents = mix(x0, noise_in(LATENTS, x0, sigma), path.trained_sigma(timestep - path.stride))
        yield row(i - start, timestep, x0, [latents])


def noise_in(latents: Vector, x0: Vector, sigma: float) -> Vector:
    """The noise that ``latents`` hold besides ``x0``."""
    signal, noise = levels(sigma)
    return (latents - signal * x0) / noise


def mix(x0: Vector, noise: Vector, sigma: float) -> Vector:
    """Latents of unit variance at ``sigma``."""
    signal_share, noise_share = levels(sigma)
    return signal_share * x0 + noise_share * noise

"""Linear multistep (Adams–Bashforth over uneven sigmas), as k-diffusion has it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .path import Floats, Path, input_scale
from .table import LATENTS, MEMORY, Row, row

_ORDER = 4


def lms(path: Path, start: int) -> Iterator[Row]:
    """Integrates the polynomial through the last four derivatives.

    Started within the path (image to image) diffusers weighs the first derivatives as if the earlier
    ones were known, and so does this.
    """
    derivatives = MEMORY[: _ORDER - 1]
    for i in range(start, len(path.timesteps)):
        sigma = path.sigmas[i]
        x0 = path.denoised(sigma, input_scale(sigma) * LATENTS)
        known = [(LATENTS - x0) / sigma, *derivatives]
        weights = _weights(path.sigmas, i, min(i + 1, _ORDER))
        latents = LATENTS + sum(w * d for w, d in zip(weights[: i - start + 1], known, strict=False))
        yield row(i - start, path.timesteps[i], x0, [latents, *known[: _ORDER - 1]], input_scale(sigma))


def _weights(sigmas: Floats, i: int, order: int) -> list[float]:
    """The integrals from sigma i to the next of the Lagrange polynomials over the last ``order`` sigmas."""
    points = sigmas[i - np.arange(order)]
    middle, half = (sigmas[i + 1] + sigmas[i]) / 2, (sigmas[i + 1] - sigmas[i]) / 2
    nodes = middle + half * np.array([-1, 1]) / np.sqrt(3)  # Gauss–Legendre: exact for cubics
    weights = []
    for k in range(order):
        others = np.delete(points, k)
        lagrange = np.prod((nodes[:, None] - others) / (points[k] - others), axis=1)
        weights.append(float(half * lagrange.sum()))
    return weights

"""UniPC of second order, B2(h), predicting data: Zhao et al. 2023 (arXiv:2302.04867, algorithms 7 and 8)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .path import Path, levels
from .table import LATENTS, MEMORY, Row, Vector, row


def unipc(path: Path, start: int) -> Iterator[Row]:
    """Corrects the latents with the model's output at them, then predicts the next."""
    corrected_before, x0_before, x0_earlier = MEMORY[:3]
    count, order = len(path.timesteps), 0
    for i in range(start, count):
        x0 = path.denoised(path.sigmas[i], LATENTS)
        latents = LATENTS
        if order:
            change = _correction(path, i, order, x0 - x0_before, x0_earlier - x0_before)
            latents = _move(path, i - 1, corrected_before, x0_before + change)
        order = min(order + 1, 2, count - i)
        data = x0
        if order == 2:
            data = x0 + (x0_before - x0) / _ratio(path, i) / 2
        yield row(i - start, path.timesteps[i], x0, [_move(path, i, latents, data), latents, x0, x0_before])


def _move(path: Path, i: int, latents: Vector, data: Vector) -> Vector:
    """The exact solution from point i to the next, were ``data`` the constant prediction of x0."""
    (_, noise), (signal, new_noise) = levels(path.sigmas[i]), levels(path.sigmas[i + 1])
    decay = float(path.sigmas[i + 1] / path.sigmas[i])
    return new_noise / noise * latents + signal * (1 - decay) * data


def _correction(path: Path, i: int, order: int, newer: Vector, older: Vector) -> Vector:
    """How the predictions around x0 at point i−1 change the data of the step from there to i."""
    if order == 1:
        return newer / 2
    h = float(np.log(path.sigmas[i - 1] / path.sigmas[i]))
    ratio = _ratio(path, i - 1)
    phi_1 = float(np.expm1(-h))
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 1 / 2
    first, second = phi_2 / phi_1, 2 * phi_3 / phi_1
    older_weight = (first - second) / (1 - ratio)
    return older_weight / ratio * older + (first - older_weight) * newer


def _ratio(path: Path, i: int) -> float:
    """Where point i−1 lies from i, in steps to i+1 of log-SNR (negative)."""
    before, here, after = np.log(path.sigmas[i - 1 : i + 2])
    return float((here - before) / (here - after))

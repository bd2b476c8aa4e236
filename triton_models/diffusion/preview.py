"""Latents to a small picture without the VAE: a linear map, fitted when the checkpoint was exported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def preview(latents: npt.NDArray[np.float32], factors: Sequence[Sequence[float]]) -> npt.NDArray[np.uint8]:
    """Latents [N, C, h, w] to RGB [N, h, w, 3]; ``factors`` [C + 1, 3] weigh the channels and 1."""
    weights = np.asarray(factors, np.float32) * 255
    pixels: npt.NDArray[np.float32] = latents.transpose(0, 2, 3, 1) @ weights[:-1] + weights[-1]
    return pixels.clip(0, 255).astype(np.uint8)

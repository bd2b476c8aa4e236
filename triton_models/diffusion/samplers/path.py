"""Where a sampler evaluates the model: timesteps and the noise there.

``sigma`` is noise over signal: the latents of the model are ``(x0 + sigma·ε) / sqrt(1 + sigma²)``.
The rounding rules are diffusers'; spacings as in table 2 of Lin et al. 2023 (arXiv:2305.08891).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..manifest import ModelInfo
from .table import OUTPUT, Vector

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """The points of one walk, from the noisiest on."""

    timesteps: Floats  # [steps]
    sigmas: Floats  # [steps + 1]; the last is where the walk ends
    trained: Floats  # sigma of each training timestep
    stride: int  # training timesteps per step
    prediction_type: str

    def denoised(self, sigma: float, scaled: Vector, output: Vector = OUTPUT) -> Vector:
        """x0 as the model predicts it at ``sigma`` from ``scaled``, its input."""
        signal, noise = levels(sigma)
        if self.prediction_type == "v_prediction":
            return signal * scaled - noise * output
        return (scaled - noise * output) / signal

    def trained_sigma(self, timestep: float) -> float:
        """Sigma at an integer training timestep; before the first, that of the first."""
        return float(self.trained[max(int(timestep), 0)])


def levels(sigma: float) -> tuple[float, float]:
    """The shares of signal and noise in latents of unit variance."""
    signal = 1.0 / np.sqrt(1.0 + sigma**2)
    return float(signal), float(sigma * signal)


def input_scale(sigma: float) -> float:
    """What takes ``x0 + sigma·ε`` to unit variance, as the model wants it."""
    return levels(sigma)[0]


def trained_sigmas(info: ModelInfo) -> Floats:
    """Noise over signal at every training timestep.

    Computed as training does, the signal rounded to float32, so that rounded timesteps fall alike.
    Raises ValueError for an unknown beta schedule.
    """
    count = info.train_timesteps
    if info.beta_schedule == "linear":
        betas = np.linspace(info.beta_start, info.beta_end, count)
    elif info.beta_schedule == "scaled_linear":
        betas = np.linspace(info.beta_start**0.5, info.beta_end**0.5, count) ** 2
    elif info.beta_schedule == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021
        signal = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    else:
        raise ValueError(f"beta schedule {info.beta_schedule!r} is not known")
    signal = np.cumprod(1 - betas).astype(np.float32).astype(np.float64)
    return np.asarray(np.sqrt((1 - signal) / signal))


Spread = Callable[[ModelInfo, int], Path]


def even(default_spacing: str, whole: bool) -> Spread:
    """Timesteps evenly spread over training: the checkpoint's spacing, or this default.

    ``whole``: only integer timesteps.
    """

    def spread(info: ModelInfo, steps: int) -> Path:
        last, spacing = info.train_timesteps, info.timestep_spacing or default_spacing
        if spacing == "linspace":
            timesteps = np.linspace(0, last - 1, steps)[::-1]
        elif spacing == "leading":
            timesteps = np.arange(steps)[::-1] * float(last // steps) + info.steps_offset
        else:
            timesteps = _trailing(last, steps)
        return through(info, steps, timesteps.round() if whole else timesteps)

    return spread


def even_without_last(info: ModelInfo, steps: int) -> Path:
    """Timesteps of the multistep solvers: one more than asked is spread, and the cleanest is left out."""
    last, spacing = info.train_timesteps, info.timestep_spacing or "linspace"
    if spacing == "linspace":
        timesteps = np.linspace(0, last - 1, steps + 1).round()[:0:-1]
    elif spacing == "leading":
        timesteps = np.arange(steps + 1)[:0:-1] * float(last // (steps + 1)) + info.steps_offset
    else:
        timesteps = _trailing(last, steps)
    return through(info, steps, timesteps)


def _trailing(last: int, steps: int) -> Floats:
    """Evenly spread back from the last training timestep."""
    # For a few numbers of steps (61, 103, …) rounding makes arange go one point too far.
    return np.asarray(np.arange(last, 0, -last / steps)[:steps].round() - 1)


def karras(info: ModelInfo, steps: int) -> Path:
    """Noise levels of Karras et al. 2022 (arXiv:2206.00364, equation 5, rho 7)."""
    trained = trained_sigmas(info)
    high, low = trained[-1] ** (1 / 7), trained[0] ** (1 / 7)
    sigmas = (high + np.linspace(0, 1, steps) * (low - high)) ** 7
    timesteps = np.interp(np.log(sigmas), np.log(trained), np.arange(len(trained)))
    if info.beta_schedule != "squaredcos_cap_v2":
        timesteps = timesteps.round()
    return Path(
        np.trunc(timesteps), np.append(sigmas, 0.0), trained, len(trained) // steps, info.prediction_type
    )


def distilled(info: ModelInfo, steps: int) -> Path:
    """The timesteps that latent consistency models are distilled on: fifty, or as many as are asked for."""
    count = max(50, steps)
    origin = (np.arange(count, 0, -1) * (info.train_timesteps // count) - 1).astype(np.float64)
    return through(info, steps, origin[np.linspace(0, count, steps, endpoint=False).astype(np.int64)])


def through(info: ModelInfo, steps: int, timesteps: Floats) -> Path:
    """The Path through these timesteps, to zero noise."""
    trained = trained_sigmas(info)
    sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    stride = len(trained) // steps
    return Path(timesteps, np.append(sigmas, 0.0), trained, stride, info.prediction_type)

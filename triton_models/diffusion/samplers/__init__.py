"""Samplers: how to walk from noise to picture, each compiled to a Table of one matrix a step.

To add one, write its rows in a file beside this and name it in ``_SAMPLERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..manifest import ModelInfo
from .ddim import ddim
from .euler import euler, euler_ancestral, heun
from .lcm import lcm
from .lms import lms
from .multistep import dpm_2m, dpm_2m_sde
from .path import Path, Spread, distilled, even, even_without_last, karras, levels
from .pndm import pndm, second_twice
from .table import Row, Table
from .unipc import unipc

__all__ = ["NAMES", "Row", "Table", "table"]


@dataclass(frozen=True)
class _Sampler:
    rows: Callable[[Path, int], Iterator[Row]]
    spread: Spread
    unit_variance: bool = True  # of its latents; otherwise they are x0 + sigma·ε


_SAMPLERS = {
    "Euler": _Sampler(euler, even("linspace", whole=False), unit_variance=False),
    "Euler a": _Sampler(euler_ancestral, even("linspace", whole=False), unit_variance=False),
    "DPM++ 2M": _Sampler(dpm_2m, even_without_last),
    "DPM++ 2M Karras": _Sampler(dpm_2m, karras),
    "DPM++ 2M SDE": _Sampler(dpm_2m_sde, even_without_last),
    "DPM++ 2M SDE Karras": _Sampler(dpm_2m_sde, karras),
    "UniPC": _Sampler(unipc, even_without_last),
    "DDIM": _Sampler(ddim, even("leading", whole=True)),
    "Heun": _Sampler(heun, even("linspace", whole=False), unit_variance=False),
    "LMS": _Sampler(lms, even("linspace", whole=False), unit_variance=False),
    "PNDM": _Sampler(pndm, second_twice),
    "LCM": _Sampler(lcm, distilled),
}

NAMES: tuple[str, ...] = tuple(_SAMPLERS)


def table(name: str, info: ModelInfo, steps: int, strength: float | None = None) -> Table:
    """The Table of the sampler ``name`` for a checkpoint.

    ``strength`` (0 to 1) begins within the walk, from an image: ``int(steps · strength)`` steps are
    left, as in diffusers; where that is none, the table has no rows and keeps the image. None is text
    to image. Raises KeyError for an unknown name.
    """
    sampler = _SAMPLERS[name]
    path = sampler.spread(info, steps)
    if strength is None:
        return Table(tuple(sampler.rows(path, 0)), (0.0, _first_noise(sampler, path, info)))
    start = steps - min(int(steps * strength), steps)
    if start == steps:
        return Table((), (1.0, 0.0))
    sigma = path.sigmas[start]
    initial = levels(sigma) if sampler.unit_variance else (1.0, float(sigma))
    return Table(tuple(sampler.rows(path, start)), initial)


def _first_noise(sampler: _Sampler, path: Path, info: ModelInfo) -> float:
    """The standard deviation that pure noise begins with."""
    if sampler.unit_variance:
        return 1.0
    sigma = float(path.sigmas[0])
    # A walk that begins below the noisiest training timestep begins with the signal's variance on top.
    return float((1 + sigma**2) ** 0.5) if info.timestep_spacing == "leading" else sigma

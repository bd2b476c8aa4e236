"""Tries engines in a throw-away process (``measure``) before the server sees them.

An engine that crashes its runtime, or answers with NaN, must do so there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.engines.cache import EngineCache
from studio.engines.entry import Unfit
from studio.engines.order import Order
from studio.gpu import environment
from triton_models.diffusion.manifest import Engine

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 600.0
SECONDS_BETWEEN_LOOKS = 0.1
Python = Sequence[str]  # what starts the interpreter that has the engines' runtimes
HERE: Python = (sys.executable,)


@dataclass(frozen=True)
class Difference:
    """How far two engines' outputs are apart: of pixels the mean absolute difference (0 to 255), of other
    numbers the norm of the difference over the norm."""

    pixels: float
    numbers: float


@dataclass(frozen=True)
class Outcome:
    """Milliseconds of one run of each engine (of one step, for the denoiser), and how far each engine
    after the first is from the first."""

    milliseconds: tuple[float, ...]
    differences: tuple[Difference, ...]


class Disturbed(Exception):
    """The trial was given up because the GPU is needed."""


def time_plan(order: Order, plan: Path, cache: EngineCache, python: Python = HERE) -> float | None:
    """Milliseconds of one run of ``order``'s plan; None when it is for another machine. Raises Unfit."""
    if order.gpu is None:
        return None
    engine = Engine(order.key.flavour, str(plan.absolute()), order.key.precision)
    return run(order, [engine], cache, python).milliseconds[0]


def run(
    order: Order,
    engines: Sequence[Engine],
    cache: EngineCache,
    python: Python = HERE,
    *,
    seconds: float = LONGEST_SECONDS,
    disturbed: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Try ``engines`` for ``order``'s component at its best size, in a process of its own.

    Raises Unfit with what went wrong, as a clause, and Disturbed as soon as ``disturbed`` says so.
    """
    process = subprocess.Popen(
        [*python, "-m", "studio.engines.measure", *_arguments(order, engines, cache)],
        cwd=ROOT,
        env=environment((order.gpu,) if order.gpu else ()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            said, logged = _until_ended(process, seconds, disturbed)
        except BaseException:
            process.terminate()  # not kill(): what runs it in a container passes this on
            raise
    if process.returncode < 0:
        raise Unfit(f"it crashed the process that tried it (signal {-process.returncode})")
    try:
        answer = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        last = (logged.strip().splitlines() or ["nothing was said"])[-1]
        raise Unfit(f"the process that tried it failed ({last})") from None
    if "unfit" in answer:
        raise Unfit(str(answer["unfit"]).rstrip("."))
    differences = tuple(Difference(*each) for each in answer["differences"])
    return Outcome(tuple(answer["milliseconds"]), differences)


def _arguments(order: Order, engines: Sequence[Engine], cache: EngineCache) -> list[str]:
    profile = order.key.profile
    return [
        *("--component", order.component.name, "--model-folder", str(order.model_folder.absolute())),
        *("--cache-folder", str(cache.compiled.absolute())),
        *("--size", f"{profile.batch[0]}x{profile.height[1]}x{profile.width[1]}"),
        *(f"--engine={engine.label.replace(' ', ':')}={engine.file}" for engine in engines),
    ]


def _until_ended(
    process: subprocess.Popen[str], seconds: float, disturbed: Callable[[], bool]
) -> tuple[str, str]:
    """What the process wrote to stdout and stderr."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if disturbed():
            raise Disturbed
        try:
            return process.communicate(timeout=SECONDS_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            continue
    raise Unfit(f"it did not answer within {seconds:.0f} seconds")

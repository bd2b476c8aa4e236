"""Tries engines in a throw-away process, with the code that Triton's models run them with.

An engine that crashes its runtime, or answers with NaN, must do so here and not in the server.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.engines import components
from studio.engines.cache import EngineCache
from studio.engines.components import COMPONENTS, DENOISER, Component
from studio.engines.entry import Unfit
from studio.engines.key import Profile
from studio.engines.order import Order
from studio.gpu import Gpu, environment
from triton_models.diffusion.denoise import Denoiser, Job
from triton_models.diffusion.manifest import Engine, EngineSet, ModelInfo
from triton_models.diffusion.runners import Engines, EngineUnusable, NoEngine
from triton_models.diffusion.timings import Timings

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 600.0
STEPS = 4  # of the denoiser's trial walk
TIMED_RUNS = 3
SLOW_SECONDS = 20.0
SECONDS_BETWEEN_LOOKS = 0.1
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Trial:
    """What is tried: ``engines`` of one component, all on the same input of ``profile``'s best size."""

    component: str
    model_folder: str
    batch: int
    height: int  # in latents
    width: int
    engines: tuple[Engine, ...]
    cache_folder: str

    @staticmethod
    def of(
        component: Component, profile: Profile, model_folder: Path, engines: Sequence[Engine], compiled: Path
    ) -> Trial:
        """A trial of ``engines``."""
        size = profile.batch[0], profile.height[1], profile.width[1]
        return Trial(component.name, str(model_folder), *size, tuple(engines), str(compiled))


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


def time_plan(order: Order, plan: Path, cache: EngineCache) -> float | None:
    """Milliseconds of one run of ``order``'s plan; None when it is for another machine. Raises Unfit."""
    if order.gpu is None:
        return None
    key = order.key
    engine = Engine(key.flavour, str(plan.absolute()), key.precision)
    trial = Trial.of(order.component, key.profile, order.model_folder, [engine], cache.compiled)
    return run(trial, (order.gpu,)).milliseconds[0]


def run(
    trial: Trial,
    gpus: tuple[Gpu, ...] = (),
    seconds: float = LONGEST_SECONDS,
    disturbed: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Try the engines in a process of its own.

    Raises Unfit with what went wrong, as a clause, and Disturbed as soon as ``disturbed`` says so.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "studio.engines.trial"],
        cwd=ROOT,
        env=environment(gpus),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            said, logged = _until_ended(process, json.dumps(asdict(trial)), seconds, disturbed)
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:
        raise Unfit(f"it crashed the process that tried it (signal {-process.returncode})")
    try:
        answer = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        last = (logged.strip().splitlines() or ["nothing was said"])[-1]
        raise Unfit(f"the process that tried it failed ({last})") from None
    if "unfit" in answer:
        raise Unfit(answer["unfit"])
    return Outcome(tuple(answer["milliseconds"]), tuple(Difference(*each) for each in answer["differences"]))


def _until_ended(
    process: subprocess.Popen[str], question: str, seconds: float, disturbed: Callable[[], bool]
) -> tuple[str, str]:
    """What the process wrote to stdout and stderr."""
    ends = time.monotonic() + seconds
    asked: str | None = question
    while time.monotonic() < ends:
        if disturbed():
            raise Disturbed
        try:
            return process.communicate(asked, timeout=SECONDS_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            asked = None  # it was sent; communicate goes on where it was
    raise Unfit(f"it did not answer within {seconds:.0f} seconds")


def main() -> None:
    """The throw-away process: a Trial on stdin, the outcome on the last line of stdout."""
    content = json.load(sys.stdin)
    trial = Trial(**{**content, "engines": tuple(_engine(each) for each in content["engines"])})
    try:
        measured = [_measure(trial, engine) for engine in trial.engines]
    except (EngineUnusable, NoEngine) as reason:
        print(json.dumps({"unfit": str(reason)}))  # noqa: T201
        return
    differences = [astuple(difference(measured[0][1], outputs)) for _, outputs in measured[1:]]
    answer = {"milliseconds": [each for each, _ in measured], "differences": differences}
    print(json.dumps(answer))  # noqa: T201


def _engine(content: dict[str, Any]) -> Engine:
    """The engine, free of its ranges: it is tried at a size that it was made for."""
    return Engine(content["flavour"], content["file"], content["precision"])


def _measure(trial: Trial, engine: Engine) -> tuple[float, dict[str, Array]]:
    info = ModelInfo.load(Path(trial.model_folder))
    only = EngineSet(trial.component, [engine], trial.model_folder, cache_folder=trial.cache_folder)
    engines = Engines(only)
    loaded = engines.pick(trial.batch, trial.height, trial.width)
    component = next(each for each in COMPONENTS if each.name == trial.component)
    inputs = random_inputs(component, trial, info)
    if component == DENOISER:
        denoiser = Denoiser(info, engines)
        milliseconds, outputs = _timed(lambda: _walk(denoiser, trial, inputs["embeddings"][:: trial.batch]))
        return milliseconds / STEPS, outputs
    names = [spec.name for spec in component.outputs]
    return _timed(lambda: loaded.runner.run(inputs, names))


def _timed(work: Callable[[], Mapping[str, Array]]) -> tuple[float, dict[str, Array]]:
    """The best of a few runs in milliseconds, after one that compiles and captures; and the output.

    A run so slow that nothing it compiled could matter counts itself.
    """
    started = time.perf_counter()
    outputs = dict(work())
    seconds = [time.perf_counter() - started]
    if seconds[0] < SLOW_SECONDS:
        seconds.clear()
        for _ in range(TIMED_RUNS):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
    return min(seconds) * 1000, outputs


def _walk(denoiser: Denoiser, trial: Trial, embeddings: Array) -> dict[str, Array]:
    seeds = range(trial.batch)
    job = Job(embeddings, list(seeds), "Euler", STEPS, 7.0, trial.height, trial.width)
    *_, last = denoiser.run(job, Timings(), lambda: False)
    assert last.latents is not None
    return {"preview": last.preview}  # as a picture, where differences are those that an artist sees


def random_inputs(component: Component, trial: Trial, info: ModelInfo) -> dict[str, Array]:
    """Values in each input's range, the same every time."""
    random = np.random.default_rng(0)
    sizes = components.sizes(
        trial.batch,
        trial.height,
        trial.width,
        guided=True,
        tokens=info.max_tokens,
        embedding_width=info.embedding_width,
    )
    inputs: dict[str, Array] = {}
    for spec in component.inputs:
        shape = spec.shape(sizes)
        if spec.dtype == "float32":
            inputs[spec.name] = random.standard_normal(shape, np.float32)
        else:
            inputs[spec.name] = random.integers(0, 255, shape).astype(spec.dtype)
    return inputs


def difference(first: Mapping[str, Array], second: Mapping[str, Array]) -> Difference:
    """The largest over the outputs."""
    pixels, numbers = [0.0], [0.0]
    for name, values in first.items():
        apart = second[name].astype(np.float64) - values
        if values.dtype == np.uint8:
            pixels.append(float(np.abs(apart).mean()))
        else:
            numbers.append(float(np.linalg.norm(apart) / (np.linalg.norm(values) + 1e-12)))
    return Difference(max(pixels), max(numbers))


if __name__ == "__main__":
    main()

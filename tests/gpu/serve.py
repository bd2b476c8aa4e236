"""TensorRT engines built and served by the studio's own code, timed and compared. Needs no torch.

  python tests/gpu/serve.py build ONNX_FOLDER --cache CACHE --pixels 512 --batch 1     engines of one size
  python tests/gpu/serve.py measure ONNX_FOLDER --cache CACHE --pixels 512 --batch 1 4 --file times.json
  python tests/gpu/serve.py pictures ONNX_FOLDER --cache CACHE --pixels 256 --file pictures.npz

``pictures`` writes the file where it is missing and else compares with it, so that one machine can make what
another is held against. ``--engine onnxruntime`` does it all on the CPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from studio import gpu as gpus  # noqa: E402
from studio.client import RawResult, TritonClient  # noqa: E402
from studio.engines import flavour  # noqa: E402
from studio.engines.build import build  # noqa: E402
from studio.engines.cache import EngineCache  # noqa: E402
from studio.engines.components import COMPONENTS, DENOISER, Component  # noqa: E402
from studio.engines.entry import Entry  # noqa: E402
from studio.engines.key import Profile, Target  # noqa: E402
from studio.engines.measure import random_inputs  # noqa: E402
from studio.engines.order import Order, orders  # noqa: E402
from studio.request import ImageRequest  # noqa: E402
from studio.server.embedded import Embedded  # noqa: E402
from studio.server.repository import Repository  # noqa: E402
from triton_models.diffusion import samplers  # noqa: E402
from triton_models.diffusion.manifest import Engine, EngineSet, ModelInfo  # noqa: E402
from triton_models.diffusion.runners import Engines  # noqa: E402

SAMPLER = "DPM++ 2M Karras"
PROMPT, NEGATIVE = "a house by the sea at night", "rain"
RUNS = 7
STEPS = 50  # of a denoiser timed alone


def say(message: str, fraction: float | None = None) -> None:
    """A line of progress."""
    percent = "" if fraction is None else f" {fraction:.0%}"
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {message}{percent}\n")
    sys.stdout.flush()


def ordered(given: argparse.Namespace, batch: int) -> list[Order]:
    """What the studio would build for ``batch`` pictures of the given size on this machine's GPU."""
    (gpu, *_) = gpus.choose(gpus.detect())
    choice = flavour.choose(gpu, "tensorrt")
    latents = given.pixels // 8
    profile = Profile.fixed(batch, latents, latents)
    target = Target.of(gpu, choice)
    level = given.level if batch == 1 else given.batch_level
    every = orders(given.folder, target, profile, gpu, level)
    return [order for order in every if not given.only or order.component.name in given.only]


def build_all(given: argparse.Namespace) -> None:
    """Build what is missing of the engines, one after the other."""
    for batch in given.batch:
        for order in ordered(given, batch):
            entry = build(order, EngineCache(given.cache), calmly(say))
            facts = json.dumps(vars(entry.facts))
            say(f"{entry.key.name}, batch {batch}, {given.pixels}: {entry.size} bytes, {facts}")


def calmly(report: Callable[[str, float | None], None]) -> Callable[[str, float | None], None]:
    """``report`` at most every 20 seconds while the message stays the same."""
    told: dict[str, float] = {}

    def told_seldom(message: str, fraction: float | None) -> None:
        key = message.partition(",")[0]
        if time.monotonic() - told.get(key, -60.0) > 20:
            told[key] = time.monotonic()
            report(message, fraction)

    return told_seldom


def engines(given: argparse.Namespace, batches: Sequence[int]) -> dict[str, list[Engine]]:
    """The engines of every component for these batches, the preferred first."""
    found: dict[str, list[Engine]] = {component.name: [] for component in COMPONENTS}
    if given.engine != "tensorrt":
        return {name: [Engine(given.engine, f"{name}.onnx", "fp32")] for name in found}
    cache = EngineCache(given.cache)
    for batch in batches:
        for order in ordered(given, batch):
            entry = cache.look_up(order.key)
            if isinstance(entry, Entry):
                found[order.component.name].append(entry.engine)
            elif batch == 1:
                raise SystemExit(f"The {order.title} is not in {given.cache}: {entry}")
    return found


@contextmanager
def served(given: argparse.Namespace, of: Mapping[str, Sequence[Engine]]) -> Iterator[TritonClient]:
    """A client of the studio's embedded Triton on these engines."""
    cache = EngineCache(given.cache)
    cache.compiled.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as logs:
        server = Embedded(Repository(given.folder, of, cache.compiled, given.threads), Path(logs))
        try:
            started = time.monotonic()
            client = TritonClient(server.start(lambda message, fraction: None).address)
            say(f"{server.description} is ready after {time.monotonic() - started:.1f} s")
            yield client
        finally:
            server.stop()
            if sys.exc_info()[0]:
                say("\n".join(server.recent_log()[-40:]))


def draw(client: TritonClient, request: ImageRequest) -> tuple[float, RawResult]:
    """Seconds from the request to its pictures, every step streamed with its preview; and the result."""
    started = time.perf_counter()
    *_, result = client.generate(request, threading.Event())
    seconds = time.perf_counter() - started
    assert isinstance(result, RawResult)
    return seconds, result


def measure(given: argparse.Namespace) -> None:
    """End to end through Triton, and each engine alone, for every batch; written to ``--file``."""
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "engine": given.engine}
    for batch in given.batch:
        of = engines(given, sorted({batch, 1}, reverse=True))
        row: dict[str, Any] = {}
        with served(given, of) as client:
            for steps in given.steps:
                request = ImageRequest(
                    PROMPT, NEGATIVE, steps, 7.5, 1, SAMPLER, given.pixels, given.pixels, batch
                )
                draw(client, request)
                runs = sorted((draw(client, request) for _ in range(RUNS)), key=lambda run: run[0])
                seconds, result = runs[len(runs) // 2]
                row[f"end to end, {steps} steps"] = seconds
                row[f"stages, {steps} steps"] = stages(result)
                row["warnings"] = list(result.warnings)
            row["memory_gb"] = memory()
        results[f"batch {batch}"] = row
        given.file.write_text(json.dumps(results, indent=1))  # what was measured is kept, whatever comes
        row |= alone(given, of, batch)
        for steps in given.steps:
            parts = row["text encoder"] + steps * row["step"] + batch * row["vae decoder"]
            row[f"over the engines' sum, {steps} steps"] = row[f"end to end, {steps} steps"] / parts
        row["steps per second"] = 1 / row["step"]
        row["pictures per second"] = batch / row[f"end to end, {given.steps[-1]} steps"]
        given.file.write_text(json.dumps(results, indent=1))
        say(json.dumps(row, indent=1))


def stages(result: RawResult) -> dict[str, float]:
    """Seconds of each stage, its spans added up."""
    totals: dict[str, float] = {}
    for span in result.spans:
        totals[span.stage] = totals.get(span.stage, 0.0) + span.seconds
    return {stage: round(seconds, 5) for stage, seconds in totals.items()}


def memory() -> float | None:
    """GB in use on the GPU, by everything; None without a GPU."""
    found = gpus.detect().gpus
    return round((found[0].memory_total - found[0].memory_free) / 2**30, 2) if found else None


def alone(given: argparse.Namespace, of: Mapping[str, Sequence[Engine]], batch: int) -> dict[str, float]:
    """Seconds of each engine by itself, its copies in and out included; of the denoiser per step.

    The pipelines encode and decode one picture at a time. Each has a process of its own, as it has in
    Triton: a denoiser whose process had held another engine before took 4 % longer.
    """
    times: dict[str, float] = {}
    for component in COMPONENTS:
        at_once = batch if component == DENOISER else 1
        only = EngineSet(component.name, list(of[component.name]), str(given.folder), given.threads)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            seconds = process.submit(time_engine, component, only, at_once, given.pixels // 8).result()
        times["step" if component == DENOISER else component.name.replace("_", " ")] = seconds
    return times


def time_engine(component: Component, only: EngineSet, batch: int, latents: int) -> float:
    """Seconds of one run of a component's engine, or of one step of the denoiser's."""
    info = ModelInfo.load(only.info_folder)
    runner = Engines(only).pick(batch, latents, latents).runner
    inputs = random_inputs(component, (batch, latents, latents), info)
    if component == DENOISER:
        return timed(partial(walk, runner, inputs, info)) / STEPS
    return timed(partial(runner.run, inputs, [spec.name for spec in component.outputs]))


def walk(runner: Any, inputs: Mapping[str, Any], info: ModelInfo) -> None:
    """A walk of STEPS, the next always started before the last is waited for, where the runner can."""
    rows = samplers.table("Euler", info, STEPS).rows
    steps = runner.steps(inputs["noise"], inputs["embeddings"], inputs["guidance"])
    for number, row in enumerate(rows):
        steps.start(row, None)
        if number >= steps.ahead:
            steps.wait()
    for _ in range(steps.ahead):
        steps.wait()


def timed(work: Callable[[], object]) -> float:
    """The median seconds of a few runs, after two to warm up."""
    work()
    work()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def requests(pixels: int) -> list[ImageRequest]:
    """Eight requests that use everything: samplers, guidance, negative prompt, strengths, a batch."""
    y, x = np.mgrid[0:pixels, 0:pixels]
    picture = np.stack([x * 255 // pixels, y * 255 // pixels, (x + y) * 127 // pixels], -1).astype(np.uint8)
    plain: dict[str, Any] = {"width": pixels, "height": pixels}
    return [
        ImageRequest("mountains at sunset", seed=1, **plain),
        ImageRequest("a red boat on the sea", "clouds", 20, 7.5, 2, "Euler", **plain),
        ImageRequest("a forest in winter", "", 20, 1.0, 3, "DDIM", **plain),
        ImageRequest("a city at night", "", 20, 5.0, 4, "UniPC", num_images=4, **plain),
        ImageRequest("a cactus in the desert", "", 12, 7.0, 5, "Euler a", **plain),
        ImageRequest("a green meadow", "", 20, 7.0, 6, image=picture, strength=0.3, **plain),
        ImageRequest("a snowy hill", "", 20, 7.0, 7, "DPM++ 2M SDE", image=picture, strength=0.6, **plain),
        ImageRequest("a lake at dawn", "", 20, 7.0, 8, "Heun", image=picture, strength=0.9, **plain),
    ]


def pictures(given: argparse.Namespace) -> None:
    """Draw the eight requests; write them, or hold them against those in ``--file``."""
    drawn: dict[str, Any] = {}
    with served(given, engines(given, given.batch)) as client:
        for number, request in enumerate(requests(given.pixels)):
            seconds, result = draw(client, request)
            drawn[str(number)] = result.images
            say(f"{number}: {request.prompt!r}, {request.sampler}: {seconds:.3f} s, {result.engine}")
    if not given.file.exists():
        np.savez_compressed(given.file, **drawn)
        return
    expected = np.load(given.file)
    for number, images in drawn.items():
        apart = np.abs(images.astype(np.int16) - expected[number]).mean()
        say(f"{number}: mean absolute difference {apart:.2f} of 255")


def main() -> None:
    """See the module's docstring."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("command", choices=("build", "measure", "pictures"))
    parser.add_argument("folder", type=Path, help="of an exported checkpoint")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--level", type=int, default=3, help="of engines for one picture")
    parser.add_argument("--batch-level", type=int, default=3, help="of engines for several pictures")
    parser.add_argument("--only", nargs="+", default=[], help="these components alone")
    parser.add_argument("--engine", default="tensorrt")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--file", type=Path)
    given = parser.parse_args()
    {"build": build_all, "measure": measure, "pictures": pictures}[given.command](given)


if __name__ == "__main__":
    main()

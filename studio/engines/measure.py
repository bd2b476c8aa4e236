"""Runs engines on the same input and prints their times and how far apart their outputs are, as JSON.

  python -m studio.engines.measure --component denoiser --model-folder FOLDER --size 1x64x64 \\
    --engine tensorrt:fp16=denoiser.plan --engine onnxruntime:fp32=denoiser.onnx

With the code that Triton's models run engines with; numpy and the engines' runtimes are all that is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.engines import components
from studio.engines.components import COMPONENTS, DENOISER, Component
from triton_models.diffusion.denoise import Denoiser, Job
from triton_models.diffusion.manifest import Engine, EngineSet, ModelInfo
from triton_models.diffusion.runners import Engines, EngineUnusable, NoEngine
from triton_models.diffusion.timings import Timings

STEPS = 4  # of the denoiser's walk
TIMED_RUNS = 3
SLOW_SECONDS = 20.0
Array = npt.NDArray[Any]


def main() -> None:
    """Measure what the command line names; the last line on stdout is the outcome."""
    asked = _arguments()
    component = next(each for each in COMPONENTS if each.name == asked.component)
    info = ModelInfo.load(asked.model_folder)
    try:
        measured = [_measure(component, info, engine, asked) for engine in asked.engine]
    except (EngineUnusable, NoEngine) as reason:
        answer: dict[str, Any] = {"unfit": str(reason)}
    else:
        differences = [difference(measured[0][1], outputs) for _, outputs in measured[1:]]
        answer = {"milliseconds": [each for each, _ in measured], "differences": differences}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studio.engines.measure", description=__doc__)
    parser.add_argument("--component", choices=[each.name for each in COMPONENTS], required=True)
    parser.add_argument("--model-folder", type=Path, required=True, help="of model.json")
    parser.add_argument("--cache-folder", default="", help="where runtimes keep what they compile")
    parser.add_argument("--size", type=_size, required=True, metavar="BATCHxHEIGHTxWIDTH", help="in latents")
    parser.add_argument(
        "--engine", type=_engine, action="append", required=True, metavar="FLAVOUR:PRECISION=FILE"
    )
    return parser.parse_args()


def _size(text: str) -> tuple[int, int, int]:
    batch, height, width = map(int, text.split("x"))
    return batch, height, width


def _engine(text: str) -> Engine:
    label, _, file = text.partition("=")
    flavour, precision = label.split(":")
    return Engine(flavour, file, precision)


def _measure(
    component: Component, info: ModelInfo, engine: Engine, asked: argparse.Namespace
) -> tuple[float, dict[str, Array]]:
    only = EngineSet(component.name, [engine], str(asked.model_folder), cache_folder=asked.cache_folder)
    engines = Engines(only)
    inputs = random_inputs(component, asked.size, info)
    if component == DENOISER:
        denoiser = Denoiser(info, engines)
        milliseconds, outputs = _timed(lambda: _walk(denoiser, asked.size, inputs["embeddings"]))
        return milliseconds / STEPS, outputs
    runner = engines.pick(*asked.size).runner
    names = [spec.name for spec in component.outputs]
    return _timed(lambda: runner.run(inputs, names))


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


def _walk(denoiser: Denoiser, size: tuple[int, int, int], embeddings: Array) -> dict[str, Array]:
    """A short walk with guidance, as a picture: there differences are those that an artist sees."""
    batch, height, width = size
    pair = embeddings[::batch]  # one negative, one positive
    job = Job(pair, list(range(batch)), "Euler", STEPS, 7.0, height, width)
    *_, last = denoiser.run(job, Timings(), lambda: False)
    return {"preview": last.preview}


def random_inputs(component: Component, size: tuple[int, int, int], info: ModelInfo) -> dict[str, Array]:
    """Values in each input's range, the same every time."""
    random = np.random.default_rng(0)
    width = info.embedding_width
    sizes = components.sizes(*size, guided=True, tokens=info.max_tokens, embedding_width=width)
    inputs: dict[str, Array] = {}
    for spec in component.inputs:
        shape = spec.shape(sizes)
        if spec.dtype == "float32":
            inputs[spec.name] = random.standard_normal(shape, np.float32)
        else:
            inputs[spec.name] = random.integers(0, 255, shape).astype(spec.dtype)
    return inputs


def difference(first: Mapping[str, Array], second: Mapping[str, Array]) -> tuple[float, float]:
    """The largest over the outputs: of pixels the mean absolute difference (0 to 255), of other numbers the
    norm of the difference over the norm."""
    pixels, numbers = [0.0], [0.0]
    for name, values in first.items():
        apart = second[name].astype(np.float64) - values
        if values.dtype == np.uint8:
            pixels.append(float(np.abs(apart).mean()))
        else:
            numbers.append(float(np.linalg.norm(apart) / (np.linalg.norm(values) + 1e-12)))
    return max(pixels), max(numbers)


if __name__ == "__main__":
    main()

"""Each component by itself on every engine that this CPU has, and on torch; in a process of its own.

    python -m studio.bench.parts MODEL MODEL_FOLDER THREADS ROUNDS

Prints JSON: {component: {engine: median seconds}}, measured in turn.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from studio.checkpoint import load, resolve
from studio.engines import cpu
from studio.engines.components import DENOISER
from triton_models.diffusion import samplers
from triton_models.diffusion.component import Component, example
from triton_models.diffusion.manifest import Engine, EngineSet, ModelInfo
from triton_models.diffusion.runners import Engines, Runner

Call = Callable[[], object]
FLAVOURS = ((cpu.ONNX_RUNTIME, "fp32"), (cpu.OPENVINO, "fp32"), (cpu.OPENVINO, "bf16"))
COMPONENTS = ("text_encoder", "denoiser", "vae_decoder", "vae_encoder")


def main(arguments: list[str]) -> None:
    """Measure and print."""
    model, folder, threads, rounds = arguments[0], Path(arguments[1]), int(arguments[2]), int(arguments[3])
    torch.set_num_threads(threads)
    info = ModelInfo.load(folder)
    pipeline = load(resolve(model))
    able = bool(cpu.flags().intersection(cpu.BF16_FLAGS))
    flavours = [one for one in FLAVOURS if cpu.installed(one[0]) and (able or one[1] == "fp32")]
    figures = {}
    for component in COMPONENTS:
        calls: dict[str, Call] = {"torch fp32": _torch(component, pipeline, info)}
        for flavour, precision in flavours:
            engine = Engine(flavour, f"{component}.onnx", precision)
            calls[engine.label] = _engine(component, engine, folder, info, threads)
        figures[component] = _in_turn(calls, rounds)
    sys.stdout.write(json.dumps(figures))


def _in_turn(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):  # the first two warm up
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number >= 2:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def _engine(component: str, engine: Engine, folder: Path, info: ModelInfo, threads: int) -> Call:
    height, width = info.default_height // info.vae_scale_factor, info.default_width // info.vae_scale_factor
    listed = EngineSet(component, [engine], str(folder), threads)
    if component == DENOISER.name:
        return _step(Engines(listed).pick(1, height, width).runner, info, height, width)
    loaded, inputs = Component(listed), example(component, info)
    return lambda: loaded.run(inputs)


def _step(runner: Runner, info: ModelInfo, height: int, width: int) -> Call:
    row = samplers.table("DPM++ 2M Karras", info, 20).rows[5]
    latents = np.zeros((1, info.latent_channels, height, width), np.float32)
    embeddings = np.zeros((2, info.max_tokens, info.embedding_width), np.float32)
    steps = runner.steps(latents, embeddings, np.array([[-6.0, 7.0]], np.float32))

    def step() -> None:
        steps.start(row, None)
        steps.wait()

    return step


def _torch(component: str, pipeline: Any, info: ModelInfo) -> Call:
    height, width = info.default_height // info.vae_scale_factor, info.default_width // info.vae_scale_factor
    latents = torch.zeros(2, info.latent_channels, height, width)
    calls: dict[str, Call] = {
        "text_encoder": lambda: pipeline.text_encoder(torch.zeros(2, info.max_tokens, dtype=torch.long)),
        "denoiser": lambda: pipeline.unet(
            latents, 500, torch.zeros(2, info.max_tokens, info.embedding_width)
        ),
        "vae_decoder": lambda: pipeline.vae.decode(latents[:1]),
        "vae_encoder": lambda: pipeline.vae.encode(
            torch.zeros(1, 3, info.default_height, info.default_width)
        ),
    }
    return torch.inference_mode()(calls[component])


if __name__ == "__main__":
    main(sys.argv[1:])

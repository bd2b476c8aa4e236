"""The same small picture in float32 and in bfloat16: prints their mean absolute difference, of 255.

python -m studio.engines.likeness MODEL_FOLDER THREADS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from studio.engines import cpu
from studio.engines.components import DENOISER, TEXT_ENCODER, VAE_DECODER
from studio.request import Pixels
from triton_models.diffusion.component import Component
from triton_models.diffusion.denoise import Denoiser, Job
from triton_models.diffusion.manifest import EngineSet, ModelInfo
from triton_models.diffusion.runners import Engines
from triton_models.diffusion.timings import Timings
from triton_models.diffusion.tokenizer import PromptTokenizer

PROMPT = "a red house by a lake under tall mountains at sunset"
SAMPLER = "DPM++ 2M Karras"
STEPS = 12
GUIDANCE_SCALE = 7.0
SEED = 4


def draw(model_folder: Path, choice: cpu.CpuChoice, threads: int) -> Pixels:
    """The trial picture [1, height, width, 3], at half the checkpoint's size, as ``choice`` draws it."""
    info = ModelInfo.load(model_folder)
    height, width = (
        max(8, size // info.vae_scale_factor // 2) for size in (info.default_height, info.default_width)
    )
    first = {name: [listed[0]] for name, listed in cpu.engines(choice).items()}  # nothing to give way to
    sets = {name: EngineSet(name, listed, str(model_folder), threads) for name, listed in first.items()}
    tokenizer = PromptTokenizer(model_folder / "tokenizer", info.max_tokens)
    ids = np.stack([tokenizer.encode(text).ids for text in ("", PROMPT)])
    embeddings = Component(sets[TEXT_ENCODER.name]).run({"input_ids": ids})["embeddings"]
    job = Job(embeddings, [SEED], SAMPLER, STEPS, GUIDANCE_SCALE, height, width)
    *_, last = Denoiser(info, Engines(sets[DENOISER.name])).run(job, Timings(), lambda: False)
    assert last.latents is not None
    image: Pixels = Component(sets[VAE_DECODER.name]).run({"latents": last.latents})["image"]
    return image


def main(arguments: list[str]) -> None:
    """Print the difference between the two pictures."""
    model_folder, threads = Path(arguments[0]), int(arguments[1])
    exact = draw(model_folder, cpu.CpuChoice(cpu.ONNX_RUNTIME, "fp32", ""), threads)
    rounded = draw(model_folder, cpu.CpuChoice(cpu.OPENVINO, "bf16", ""), threads)
    difference = np.abs(exact.astype(np.int32) - rounded.astype(np.int32)).mean()
    sys.stdout.write(f"{difference:.4f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

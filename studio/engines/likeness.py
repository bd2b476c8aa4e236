"""The same pictures in float32 and in bfloat16: prints the median of their mean differences, of 255.

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

# Several, because rounding may tip the scales for one thing in one picture and change nothing in all others;
# and unlike each other, because what is undecided in a prompt (one house or two?) tips easily at every seed.
PROMPTS = (
    "a red house by a lake under tall mountains at sunset",
    "a sailing boat on the sea at night, stars",
    "the skyline of a city at dawn",
)
SAMPLER = "DPM++ 2M Karras"
STEPS = 12  # with fewer, rounding tips the scales in half of the pictures
GUIDANCE_SCALE = 7.0
LARGEST = 256  # pixels: large checkpoints would take minutes at their own size


def draw(model_folder: Path, choice: cpu.CpuChoice, threads: int) -> list[Pixels]:
    """The trial pictures, each [1, height, width, 3], as ``choice`` draws them."""
    info = ModelInfo.load(model_folder)
    height, width = (
        min(size, LARGEST) // info.vae_scale_factor for size in (info.default_height, info.default_width)
    )
    first = {name: [listed[0]] for name, listed in cpu.engines(choice).items()}  # nothing to give way to
    sets = {name: EngineSet(name, listed, str(model_folder), threads) for name, listed in first.items()}
    tokenizer = PromptTokenizer(model_folder / "tokenizer", info.max_tokens)
    encoder, decoder = Component(sets[TEXT_ENCODER.name]), Component(sets[VAE_DECODER.name])
    denoiser = Denoiser(info, Engines(sets[DENOISER.name]))
    pictures = []
    for seed, prompt in enumerate(PROMPTS):
        ids = np.stack([tokenizer.encode(text).ids for text in ("", prompt)])
        embeddings = encoder.run({"input_ids": ids})["embeddings"]
        job = Job(embeddings, [seed], SAMPLER, STEPS, GUIDANCE_SCALE, height, width)
        *_, last = denoiser.run(job, Timings(), lambda: False)
        assert last.latents is not None
        pictures.append(decoder.run({"latents": last.latents})["image"])
    return pictures


def main(arguments: list[str]) -> None:
    """Print how far apart the pictures are."""
    model_folder, threads = Path(arguments[0]), int(arguments[1])
    exact = draw(model_folder, cpu.CpuChoice(cpu.ONNX_RUNTIME, "fp32", ""), threads)
    rounded = draw(model_folder, cpu.CpuChoice(cpu.OPENVINO, "bf16", ""), threads)
    differences = [
        np.abs(one.astype(np.int32) - other.astype(np.int32)).mean()
        for one, other in zip(exact, rounded, strict=True)
    ]
    sys.stdout.write(f"{np.median(differences):.4f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

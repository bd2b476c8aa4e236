"""Stable Diffusion 1.5's geometry with random weights, and how fast diffusers runs it.

Timing needs no trained weights, and none are in this repository. Run with a Python that has torch:

  python tests/gpu/sd15.py write FOLDER           a checkpoint folder, float16
  python tests/gpu/sd15.py export FOLDER CACHE    its ONNX components, by the studio's own export
  python tests/gpu/sd15.py diffusers FOLDER FILE  seconds of diffusers, eager and compiled, into a JSON file
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

PROMPT, NEGATIVE = "a house by the sea at night", "rain"
RUNS = 5
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "use_karras_sigmas": True,
}


def write(folder: Path, small: bool) -> None:
    """Save the checkpoint; ``small`` is a tenth of its width, to try the scripts with."""
    torch.manual_seed(0)
    widths = (32, 64, 128, 128) if small else (320, 640, 1280, 1280)
    vae_widths = (32, 32, 64, 64) if small else (128, 256, 512, 512)
    width = 64 if small else 768
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=width, block_out_channels=widths)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=vae_widths,
        layers_per_block=2,
        sample_size=512,
        scaling_factor=0.18215,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2 if small else 12,
            num_attention_heads=4 if small else 12,
            projection_dim=width,
        )
    )
    # The words do not matter to random weights, so the bundled checkpoint's tokenizer will do.
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "assets" / "postcards" / "tokenizer")
    scheduler = DPMSolverMultistepScheduler(**{**SCHEDULER, "use_karras_sigmas": False})
    pipeline = StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.to(torch.float16).save_pretrained(folder)


def export(folder: Path, cache: Path) -> None:
    """The studio's export in float16; its folder is printed last."""
    from studio.checkpoint import resolve
    from studio.engines.export import export as export_onnx

    def report(message: str, fraction: float | None) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {message}\n")

    made = export_onnx(resolve(str(folder), report), cache, report, precision="fp16")
    sys.stdout.write(f"{made}\n")


def run_diffusers(folder: Path, file: Path) -> None:
    """Time the whole pipeline and its parts, eager first and then compiled; ``file`` grows as it goes."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16, safety_checker=None)
    pipeline.scheduler = DPMSolverMultistepScheduler(**SCHEDULER)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cuda")
    results: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }

    def note(name: str, seconds: float) -> None:
        results[name] = round(seconds, 5)
        results["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        file.write_text(json.dumps(results, indent=1))
        sys.stdout.write(f"{name}: {seconds:.4f} s\n")
        sys.stdout.flush()

    measure(pipeline, "eager", note, batches=(1, 4))
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.unet = torch.compile(pipeline.unet, mode="reduce-overhead", fullgraph=True)
    pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode="reduce-overhead", fullgraph=True)
    started = time.perf_counter()
    draw(pipeline, 2, 1)
    note("compiling", time.perf_counter() - started)
    measure(pipeline, "compiled", note, batches=(1,))


def measure(pipeline: Any, how: str, note: Callable[[str, float], None], batches: tuple[int, ...]) -> None:
    """Whole pictures at 20 and 50 steps, and one UNet call of a step."""
    for batch in batches:
        for steps in (20, 50):
            seconds = timed(lambda steps=steps, batch=batch: draw(pipeline, steps, batch))
            note(f"{how} batch {batch} steps {steps}", seconds)
    latents = torch.randn(2, 4, 64, 64, device="cuda", dtype=torch.float16)
    width = pipeline.text_encoder.config.hidden_size
    embeddings = torch.randn(2, 77, width, device="cuda", dtype=torch.float16)
    timestep = torch.tensor(500, device="cuda")

    def ten() -> None:
        with torch.inference_mode():
            for _ in range(10):
                pipeline.unet(latents, timestep, embeddings, return_dict=False)

    note(f"{how} unet call, batch 2", timed(ten) / 10)


def draw(pipeline: Any, steps: int, batch: int) -> None:
    """One request as the studio makes it: seeds on the CPU, pixels on the host."""
    seeds = [torch.Generator("cpu").manual_seed(seed) for seed in range(batch)]
    pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=steps,
        guidance_scale=7.5,
        height=512,
        width=512,
        num_images_per_prompt=batch,
        generator=seeds,
        output_type="np",
    )


def timed(work: Callable[[], object]) -> float:
    """The median seconds of a few runs, after two to warm up."""
    work()
    work()
    seconds = []
    for _ in range(RUNS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """See the module's docstring."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("command", choices=("write", "export", "diffusers"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=Path("."))
    parser.add_argument("--small", action="store_true", help="a narrow network, to try the script")
    given = parser.parse_args()
    if given.command == "write":
        write(given.folder, given.small)
    elif given.command == "export":
        export(given.folder, given.target)
    else:
        run_diffusers(given.folder, given.target)


if __name__ == "__main__":
    main()

"""diffusers' own pipeline, eager, float32, as the thing to be compared with; in a process of its own.

    python -m studio.bench.baseline MODEL THREADS

Reads one JSON request a line from stdin and answers each with the seconds it took, as one line.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from diffusers import DPMSolverMultistepScheduler

from studio.checkpoint import load, resolve

SAMPLER = "DPM++ 2M Karras"  # ours of the same name


def main(arguments: list[str]) -> None:
    """Load the checkpoint, say so, and draw what is asked for until stdin ends."""
    model, threads = arguments
    torch.set_num_threads(int(threads))
    pipeline = load(resolve(model))
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(  # type: ignore[no-untyped-call]
        pipeline.scheduler.config, use_karras_sigmas=True
    )
    pipeline.set_progress_bar_config(disable=True)
    _say("ready")
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        generator = torch.Generator("cpu").manual_seed(asked.pop("seed"))
        began = time.perf_counter()
        pipeline(**asked, generator=generator)
        _say(f"{time.perf_counter() - began}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

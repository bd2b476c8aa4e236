"""Pictures from the checkpoint, through diffusers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

CHECKPOINT = Path(__file__).parents[1] / "postcards"


@dataclass(frozen=True)
class Settings:
    """How pictures are made."""

    checkpoint: Path = CHECKPOINT
    device: str = "cpu"
    steps: int = 20
    batch: int = 4


class Painter:
    """The checkpoint behind one function, with DPM++ 2M."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        pipeline = StableDiffusionPipeline.from_pretrained(settings.checkpoint, local_files_only=True)
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline.to(settings.device)
        for network in (pipeline.unet, pipeline.vae):
            network.to(memory_format=torch.channels_last)  # faster on a CPU

    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        guidance: float,
        negative: Sequence[str] | None = None,
    ) -> list[Image.Image]:
        """One picture per prompt and seed."""
        pictures: list[Image.Image] = []
        for start in range(0, len(prompts), self.settings.batch):
            part = slice(start, start + self.settings.batch)
            pictures += self.pipeline(
                list(prompts[part]),
                negative_prompt=list(negative[part]) if negative else None,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
                guidance_scale=guidance,
                num_inference_steps=self.settings.steps,
            ).images
        return pictures

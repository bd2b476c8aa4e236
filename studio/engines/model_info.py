"""model.json and tokenizer/ of an exported checkpoint, and the colours of its latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from studio.checkpoint import Checkpoint
from studio.engines.components import LATENT_CHANNELS, PIXELS_PER_LATENT
from studio.engines.graphs import VaeDecoder, VaeEncoder
from triton_models.diffusion.manifest import ModelInfo

PREVIEW_PICTURES = 2
PREVIEW_PIXELS = 128


def model_info(checkpoint: Checkpoint, pipeline: Any) -> ModelInfo:
    """What the pipelines need to know, from the checkpoint's own configurations."""
    scheduler = pipeline.scheduler.config
    unstated = scheduler.get("_use_default_values", [])
    width, height = checkpoint.default_size
    if checkpoint.prediction_type == "unknown" and scheduler.prediction_type == "epsilon":
        width, height = 512, 512  # SD 2.x's base model; its v-predicting sister draws at 768
    return ModelInfo(
        name=checkpoint.name,
        family=checkpoint.family,
        digest=checkpoint.digest,
        prediction_type=scheduler.prediction_type,
        beta_start=scheduler.beta_start,
        beta_end=scheduler.beta_end,
        beta_schedule=scheduler.beta_schedule,
        train_timesteps=scheduler.num_train_timesteps,
        # Where the checkpoint states none, each sampler has its own, as with diffusers' from_config.
        timestep_spacing="" if "timestep_spacing" in unstated else scheduler.get("timestep_spacing", ""),
        steps_offset=scheduler.get("steps_offset", 0),
        max_tokens=pipeline.text_encoder.config.max_position_embeddings,
        embedding_width=pipeline.text_encoder.config.hidden_size,
        latent_channels=LATENT_CHANNELS,
        vae_scale_factor=PIXELS_PER_LATENT,
        default_width=width,
        default_height=height,
        preview_factors=preview_factors(pipeline.vae),
    )


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save the tokenizer with a ``tokenizer.json``, which the `tokenizers` library alone can load."""
    tokenizer.save_pretrained(folder)


def preview_factors(vae: Any) -> list[list[float]]:
    """The linear map [latent channels + 1, 3] from latents (and 1) to RGB in 0..1, by least squares.

    Fitted to pictures of random coloured shapes that the VAE encodes and decodes.
    """
    pictures = _pictures(PREVIEW_PICTURES, PREVIEW_PIXELS)
    latents, _ = VaeEncoder(vae)(pictures)
    colours = VaeDecoder(vae).decode(latents).permute(0, 3, 1, 2)
    colours = functional.avg_pool2d(colours, PIXELS_PER_LATENT)
    rows = latents.permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
    wanted = colours.permute(0, 2, 3, 1).reshape(-1, 3).double()
    factors = torch.linalg.lstsq(rows, wanted).solution
    return [[round(value, 6) for value in row] for row in factors.tolist()]


def _pictures(count: int, size: int) -> Tensor:
    """Coloured gradients with coloured discs and bars on them, uint8 [count, size, size, 3]."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random)

    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    pictures = functional.interpolate(draw(count, 3, 3, 3), (size, size), mode="bilinear", align_corners=True)
    for picture in pictures:
        for _ in range(12):
            cx, cy, radius, ratio = (*draw(2).tolist(), *(0.05 + 0.2 * draw(2)).tolist())
            inside = ((x - cx) / radius) ** 2 + ((y - cy) / ratio) ** 2 < 1
            picture[:, inside] = draw(3, 1)
    return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

"""First stage: the autoencoder, on pictures alone."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from assets.training.data import SIZES, chunks
from assets.training.models import normalise_latents
from assets.training.schedule import average_into, learning_rate

PEAK_RATE = 2e-3
KL_WEIGHT = 1e-5
AVERAGE = 0.998


def train_vae(
    vae: AutoencoderKL,
    tokenizer_folder: Path,
    *,
    refine: bool,
    images: int,
    batch: int,
    minutes: float,
    workers: int,
    device: str,
    compiled: bool,
) -> AutoencoderKL:
    """Train for `minutes` on about `images` square pictures; returns the averaged weights.

    First with `refine` off: everything is trained, and the latents are normalised at the end. Then with
    `refine` on: the encoder stays, so that a UNet trained on its latents stays right; the decoder learns on.
    """
    pictures = _load_pictures(tokenizer_folder, images, workers, seed=3 if refine else 1, device=device)
    vae = vae.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(vae).requires_grad_(False)
    for module in (vae.encoder, vae.quant_conv):
        module.requires_grad_(not refine)
    if compiled:
        vae.encoder.compile()
        vae.decoder.compile()
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    start, step, progress = time.monotonic(), 0, 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * (0.5 if refine else 1) * learning_rate(step, progress)
        picked = pictures[torch.randint(len(pictures), (batch,), device=device)]
        loss, distance = _loss(vae, _to_input(picked), refine)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average_into(average, vae, min(AVERAGE, (step + 1) / (step + 10)))
        if step % 200 == 0:
            _report(step, loss.item(), distance.item(), time.monotonic() - start)
        step += 1
        progress = (time.monotonic() - start) / (60 * minutes)
    print(f"vae: {step} steps of {batch} in {time.monotonic() - start:.0f}s", flush=True)
    if not refine:
        _normalise(average, pictures)
    return average


def _report(step: int, loss: float, distance: float, seconds: float) -> None:
    print(f"vae step {step} loss {loss:.4f} L1 {distance * 127.5:.2f}/255 {seconds:.0f}s", flush=True)


def _load_pictures(tokenizer_folder: Path, count: int, workers: int, seed: int, device: str) -> torch.Tensor:
    """Square pictures as uint8 [n, 3, 256, 256] on the device."""
    drawn = chunks(tokenizer_folder, count, workers, seed)
    square = [torch.from_numpy(chunk.images).to(device) for chunk in drawn if chunk.size == SIZES[0]]
    return torch.cat(square).permute(0, 3, 1, 2)


def _to_input(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _loss(vae: AutoencoderKL, x: torch.Tensor, refine: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 of pixels and of their differences at three scales, a squared error, a light KL; and the L1 alone.

    Refining leaves out the squared error and the KL: L1 gives sharper edges.
    """
    with torch.autocast(x.device.type, torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    y = y.float()
    distance = F.l1_loss(y, x)
    loss = distance if refine else distance + F.mse_loss(y, x)
    for scale in (1, 2, 4):
        a, b = (F.avg_pool2d(z, scale) if scale > 1 else z for z in (y, x))
        loss = loss + F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + F.l1_loss(a.diff(dim=-2), b.diff(dim=-2))
    if refine:
        return loss, distance
    kl = posterior.kl().mean() / x[0].numel()
    return loss + KL_WEIGHT * x[0].numel() / 4096 * kl, distance


@torch.no_grad()
def _normalise(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Give the latents of `vae` mean 0 and deviation 1 per channel, as measured on 2,048 pictures."""
    latents = torch.cat([vae.encode(_to_input(part)).latent_dist.mean for part in pictures[:2048].split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    print(f"latents: mean {mean.tolist()} std {std.tolist()}", flush=True)
    normalise_latents(vae, mean, std)

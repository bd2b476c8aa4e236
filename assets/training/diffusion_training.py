"""Second stage: the UNet and the text encoder, together, on the autoencoder's latents."""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

from assets.training.data import CAPTIONS, SIZE_SHARES, SIZES, Chunk, chunks, tokenize
from assets.training.models import LATENT_CHANNELS, VAE_FACTOR, make_scheduler, make_text_encoder, make_unet
from assets.training.schedule import average_into, learning_rate
from assets.training.tokenizer import MAX_TOKENS

PEAK_RATE = 1e-3
AVERAGE = 0.9990
CAPTION_DROPOUT = 0.1
SAVE_SECONDS = 60
Save = Callable[[nn.Module, nn.Module], None]


class Store:
    """Latents (float16) and caption tokens on the device, one table per picture size, filled while training runs."""

    def __init__(self, count: int, device: str) -> None:
        self.size = 0
        self.tables = []
        for (width, height), share in zip(SIZES, SIZE_SHARES, strict=True):
            room = int(count * share * 1.2) + 1024
            shape = (room, LATENT_CHANNELS, height // VAE_FACTOR, width // VAE_FACTOR)
            latents = torch.empty(shape, dtype=torch.float16, device=device)
            tokens = torch.empty((room, CAPTIONS, MAX_TOKENS), dtype=torch.int16, device=device)
            self.tables.append((latents, tokens))
        self.filled = [0] * len(SIZES)

    @torch.no_grad()
    def add(self, chunk: Chunk, vae: AutoencoderKL) -> None:
        """Encode a chunk of pictures and keep their latents' means."""
        index = SIZES.index(chunk.size)
        latents, tokens = self.tables[index]
        start = self.filled[index]
        end = min(start + len(chunk.images), len(latents))
        images = torch.from_numpy(chunk.images).to(latents.device).permute(0, 3, 1, 2)
        with torch.autocast(latents.device.type, torch.bfloat16):
            encoded = vae.encode(images / 127.5 - 1).latent_dist.mean
        latents[start:end] = encoded[: end - start].half()
        tokens[start:end] = torch.from_numpy(chunk.tokens).to(latents.device)[: end - start]
        self.filled[index] = end

    def draw(self, index: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of one size: latents float32 [batch, 4, h, w] and token ids int64 [batch, 77]."""
        latents, tokens = self.tables[index]
        picked = torch.randint(self.filled[index], (batch,), device=latents.device)
        written = torch.randint(CAPTIONS, (batch,), device=latents.device)
        return latents[picked].float(), tokens[picked, written].long()


def train_diffusion(
    tokenizer_folder: Path,
    vae: AutoencoderKL,
    save: Save,
    *,
    images: int,
    batch: int,
    minutes: float,
    workers: int,
    device: str,
    compiled: bool,
) -> None:
    """Train for `minutes` on up to `images` pictures; calls `save(text_encoder, unet)` now and then and at the end."""
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    empty = torch.from_numpy(tokenize(tokenizer, [""])).long().to(device)
    store = Store(images, device)
    pending = _draw_in_background(tokenizer_folder, images, workers)
    text_encoder = make_text_encoder(tokenizer).to(device)
    unet = make_unet().to(device, memory_format=torch.channels_last)
    averages = [copy.deepcopy(model).requires_grad_(False) for model in (text_encoder, unet)]
    parameters = [*text_encoder.parameters(), *unet.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=device == "cuda")
    kept = make_scheduler().alphas_cumprod.to(device)
    square = torch.compile(unet) if compiled else unet
    while min(store.filled) < batch:
        store.add(pending.get(), vae)
    start = saved = time.monotonic()
    step, progress, running = 0, 0.0, 0.0
    while progress < 1:
        if not pending.empty():
            store.add(pending.get(), vae)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * learning_rate(step, progress)
        index = 0 if step % 5 else 1 + step // 5 % 2  # four batches in five are square
        latents, tokens = store.draw(index, batch)
        dropped = torch.rand(batch, 1, device=device) < CAPTION_DROPOUT
        loss = _loss(text_encoder, unet if index else square, latents, torch.where(dropped, empty, tokens), kept)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(AVERAGE, (step + 1) / (step + 10))
        average_into(averages[0], text_encoder, decay)
        average_into(averages[1], unet, decay)
        if step % 250 == 0:
            print(f"step {step} loss {loss.item():.4f} pictures {sum(store.filled)} {time.monotonic() - start:.0f}s", flush=True)
        step += 1
        now = time.monotonic()
        progress = (now - start) / (60 * minutes)
        if now - saved > SAVE_SECONDS or progress >= 1:
            save(averages[0], averages[1])
            saved = now
    print(f"diffusion: {step} steps of {batch}, {sum(store.filled)} pictures, {time.monotonic() - start:.0f}s", flush=True)


def _loss(
    text_encoder: nn.Module, unet: nn.Module, latents: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of v = sqrt(a) noise - sqrt(1 - a) latents, at time steps spread evenly over the batch.

    `kept` is the schedule's alphas_cumprod. Salimans and Ho, Progressive Distillation, 2022, section 2.3.
    """
    batch = len(latents)
    spread = (torch.arange(batch, device=latents.device) + torch.rand(batch, device=latents.device)) / batch
    timesteps = (spread * len(kept)).long()
    signal = kept[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - kept[timesteps]).sqrt()[:, None, None, None]
    noise = torch.randn_like(latents)
    noisy = (signal * latents + sigma * noise).contiguous(memory_format=torch.channels_last)
    with torch.autocast(latents.device.type, torch.bfloat16):
        states = text_encoder(tokens)[0]
        predicted = unet(noisy, timesteps, states).sample
    return F.mse_loss(predicted.float(), signal * noise - sigma * latents)


def _draw_in_background(tokenizer_folder: Path, images: int, workers: int) -> queue.Queue[Chunk]:
    """A queue that a thread fills with drawn chunks, a few ahead of the training."""
    pending: queue.Queue[Chunk] = queue.Queue(maxsize=64)

    def fill() -> None:
        for chunk in chunks(tokenizer_folder, images, workers, seed=2):
            pending.put(chunk)

    threading.Thread(target=fill, daemon=True).start()
    return pending

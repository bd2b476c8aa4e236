"""Last stage: the UNet and the text encoder, together, on the autoencoder's latents."""

from __future__ import annotations

import copy
import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPTokenizer

from assets.training.data import SIZES, TURNS, Chunk, chunks, tokenize
from assets.training.models import make_scheduler
from assets.training.schedule import arithmetic, average_into, learning_rate
from assets.training.store import Store

PEAK_RATE = 1e-3
PEAK_RATE_BATCH = 512
"""The batch that PEAK_RATE is for; others scale it with the square root of theirs."""

LAYOUT_START = 0.9
"""Where objects stand is decided in the noisiest time steps. From this share of the schedule on, what is left
of the picture does not show it to the network, so that only the words tell."""

AVERAGE = 0.999
CAPTION_DROPOUT = 0.1
SAVE_SECONDS = 60
Save = Callable[[nn.Module, nn.Module], None]


class Trainee:
    """Both networks, three times: float32 weights, a copy that computes, an average to keep.

    The UNet is compiled. On a CPU attention is plain products of matrices in both networks: the backward pass
    of torch's fused attention took a third of a step there.
    """

    def __init__(self, text_encoder: nn.Module, unet: nn.Module, device: str) -> None:
        self.weights = nn.ModuleList([text_encoder, unet]).to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.weights).requires_grad_(False)
        self.working = copy.deepcopy(self.weights).to(arithmetic(device))
        self.working[1].compile(dynamic=False)
        if device == "cpu":
            self.working[0].set_attn_implementation("eager")
            self.working[1].set_attn_processor(AttnProcessor())
        self.optimizer = torch.optim.AdamW(
            self.weights.parameters(),
            lr=PEAK_RATE,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )

    def step(self, loss: torch.Tensor, number: int, rate: float) -> None:
        """Take one step down the gradient of `loss`, which `working` computed."""
        pairs = [(w, m) for w, m in zip(self.working.parameters(), self.weights.parameters(), strict=True)]
        loss.backward()
        for working, weight in pairs:
            weight.grad = None if working.grad is None else working.grad.float()
            working.grad = None
        torch.nn.utils.clip_grad_norm_(self.weights.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_([w for w, _ in pairs], [m for _, m in pairs])
        average_into(self.average, self.weights, min(AVERAGE, (number + 1) / (number + 10)))


def train_diffusion(
    tokenizer_folder: Path,
    vae: AutoencoderKL,
    text_encoder: nn.Module,
    unet: nn.Module,
    save: Save,
    *,
    images: int,
    batch: int,
    minutes: float,
    workers: int,
    device: str,
) -> None:
    """Train for `minutes` on up to `images` pictures; calls `save` each minute and at the end.

    Every other step is about layout alone: the turns of a few scenes in the noisiest time steps, those of a
    scene with the same noise, and how their errors differ. Without it, what "on the left" means was not
    learnt at all: from picture to picture, the side is drowned by everything else that differs.
    """
    empty = (
        torch.from_numpy(tokenize(CLIPTokenizer.from_pretrained(tokenizer_folder), [""])).long().to(device)
    )
    store = Store(images, device)
    pending = _draw_in_background(tokenizer_folder, images, workers)
    trainee = Trainee(text_encoder, unet, device)
    kept = make_scheduler().alphas_cumprod.to(device)
    while not all(store.filled):
        store.add(pending.get(), vae)
    peak_rate = PEAK_RATE * math.sqrt(batch / PEAK_RATE_BATCH)
    batch -= batch % TURNS  # every step alike, to compile once
    start = saved = time.monotonic()
    step, progress = 0, 0.0
    while progress < 1:
        if step % 2 == 0 and not pending.empty():
            store.add(pending.get(), vae)
        table = 0 if step % 5 else 1 + step // 5 % (len(SIZES) - 1)  # four batches in five are square
        turns, lowest = (TURNS, LAYOUT_START) if step % 2 else (1, 0.0)
        latents, tokens = store.draw(table, batch, turns)
        dropped = torch.rand(len(latents), 1, device=device) < (CAPTION_DROPOUT if turns == 1 else 0)
        levels = lowest + (1 - lowest) * _spread(len(latents) // turns, device)
        loss = _loss(trainee.working, latents, torch.where(dropped, empty, tokens), kept, levels, turns)
        trainee.step(loss, step, peak_rate * learning_rate(step, progress))
        now = time.monotonic()
        if step % 250 == 0:
            print(
                f"step {step} loss {loss.item():.4f} pictures {sum(store.filled)} {now - start:.0f}s",
                flush=True,
            )
        step += 1
        progress = (now - start) / (60 * minutes)
        if now - saved > SAVE_SECONDS or progress >= 1:
            save(*trainee.average)
            saved = now
    print(f"diffusion: {step} steps of {batch}, {sum(store.filled)} pictures, {now - start:.0f}s", flush=True)


def _loss(
    networks: nn.ModuleList,
    latents: torch.Tensor,
    tokens: torch.Tensor,
    kept: torch.Tensor,
    levels: torch.Tensor,
    turns: int,
) -> torch.Tensor:
    """Mean squared error of v = sqrt(a) noise - sqrt(1 - a) latents.

    `kept` is the schedule's alphas_cumprod; `levels` are places in it, 0 to 1, one for each row of `turns`
    pictures, which share their noise. Of a row, only how the errors differ counts: what they have in common
    is not about the side, and would drown it. Salimans and Ho, Progressive Distillation, 2022, section 2.3.
    """
    text_encoder, unet = networks
    timesteps = (levels * len(kept)).long().clamp(max=len(kept) - 1).repeat_interleave(turns)
    signal = kept[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - kept[timesteps]).sqrt()[:, None, None, None]
    noise = torch.randn_like(latents[::turns]).repeat_interleave(turns, 0)
    noisy = (signal * latents + sigma * noise).to(unet.dtype, memory_format=torch.channels_last)
    square = noisy.shape[-1] == noisy.shape[-2]
    predict = unet if square else unet.forward  # compiling takes longer than it saves for one step in ten
    predicted = predict(noisy, timesteps, text_encoder(tokens)[0]).sample
    errors = predicted.float() - (signal * noise - sigma * latents)
    if turns > 1:
        rows = errors.unflatten(0, (-1, turns))
        errors = rows - rows.mean(1, keepdim=True)
    return errors.square().mean()


def _spread(count: int, device: str) -> torch.Tensor:
    """Random numbers from 0 to 1 (which rounding can reach), one in each of `count` equal parts."""
    return (torch.arange(count, device=device) + torch.rand(count, device=device)) / count


def _draw_in_background(tokenizer_folder: Path, images: int, workers: int) -> queue.Queue[Chunk]:
    """A queue that a thread fills with drawn chunks, a few ahead of the training."""
    pending: queue.Queue[Chunk] = queue.Queue(maxsize=64)

    def fill() -> None:
        for chunk in chunks(tokenizer_folder, images, workers, seed=2):
            pending.put(chunk)

    threading.Thread(target=fill, daemon=True).start()
    return pending

"""The latents and captions that the diffusion stage trains on, held on the GPU."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from assets.training.data import CAPTIONS, CHUNK, SIZE_CYCLE, SIZES, Chunk
from assets.training.models import LATENT_CHANNELS, VAE_FACTOR
from assets.training.schedule import arithmetic
from assets.training.tokenizer import MAX_TOKENS

ENCODED_AT_ONCE = 32
"""Pictures; a whole chunk would fill a CPU's memory with gigabytes of activations."""


class Store:
    """Latents (float16) and caption tokens, one table per picture size, filled while training runs."""

    def __init__(self, count: int, device: str) -> None:
        self.tables = []
        for index, (width, height) in enumerate(SIZES):
            room = count * SIZE_CYCLE.count(index) // len(SIZE_CYCLE) + len(SIZE_CYCLE) * CHUNK
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
        device = latents.device.type
        with torch.autocast(device, torch.bfloat16, enabled=arithmetic(device) == torch.bfloat16):
            parts = [vae.encode(part / 127.5 - 1).latent_dist.mean for part in images.split(ENCODED_AT_ONCE)]
        encoded = torch.cat(parts)
        latents[start:end] = encoded[: end - start].half()
        tokens[start:end] = torch.from_numpy(chunk.tokens).to(latents.device)[: end - start]
        self.filled[index] = end

    def draw(self, index: int, batch: int, turns: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of one size: latents float32 [batch, 4, h, w] and token ids int64 [batch, 77].

        With ``turns``, pictures come in rows of so many turns of a scene, their captions worded alike.
        """
        latents, tokens = self.tables[index]
        first = turns * torch.randint(self.filled[index] // turns, (batch // turns,), device=latents.device)
        picked = (first[:, None] + torch.arange(turns, device=latents.device)).flatten()
        written = torch.randint(CAPTIONS, (batch // turns,), device=latents.device).repeat_interleave(turns)
        return latents[picked].float(), tokens[picked, written].long()

"""What the training stages share: the learning rate over time, the average of the weights, the arithmetic."""

from __future__ import annotations

import math

import torch
from torch import nn

WARM_UP_STEPS = 300


def learning_rate(step: int, progress: float) -> float:
    """Share of the peak rate: linear warm-up by steps, and a cosine down to 1 % as `progress` goes to 1."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def arithmetic(device: str) -> torch.dtype:
    """What to compute in: bfloat16 on a GPU and on a CPU with instructions for it, float32 on any other."""
    if device == "cuda":
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move `average` towards `model`: average = decay * average + (1 - decay) * model."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)

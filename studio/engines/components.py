"""The four components that a checkpoint is exported to, and their tensors.

Symbols in ``dims``: ``batch`` pictures; ``prompts`` 2 with guidance (negative, positive), else 1;
``unet_batch`` = prompts × batch; ``height`` and ``width`` in latents; ``image_height`` and
``image_width`` in pixels; ``tokens`` and ``embedding_width`` are the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from triton_models.diffusion.manifest import STATE_SLOTS

PIXELS_PER_LATENT = 8
LATENT_CHANNELS = 4


@dataclass(frozen=True)
class TensorSpec:
    """A tensor: its name, numpy dtype name, and dimensions (a number, or a symbol)."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The dimensions with every symbol replaced."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.dims)


@dataclass(frozen=True)
class Component:
    """A graph of its own: one ONNX file, one engine, one Triton model."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


_LATENTS = ("batch", LATENT_CHANNELS, "height", "width")
_STATE = (STATE_SLOTS, *_LATENTS)
_IMAGE = ("batch", "image_height", "image_width", 3)

TEXT_ENCODER = Component(
    "text_encoder",
    inputs=(TensorSpec("input_ids", "int32", ("prompts", "tokens")),),
    outputs=(TensorSpec("embeddings", "float32", ("prompts", "tokens", "embedding_width")),),
)

VAE_ENCODER = Component(
    "vae_encoder",
    inputs=(TensorSpec("image", "uint8", _IMAGE),),
    outputs=(TensorSpec("mean", "float32", _LATENTS), TensorSpec("std", "float32", _LATENTS)),
)

DENOISER = Component(
    "denoiser",
    inputs=(
        TensorSpec("state", "float32", _STATE),
        TensorSpec("embeddings", "float32", ("unet_batch", "tokens", "embedding_width")),
        TensorSpec("timestep", "float32", (1,)),
        TensorSpec("input_scale", "float32", (1,)),
        TensorSpec("guidance", "float32", ("batch", "unet_batch")),
        TensorSpec("update", "float32", (STATE_SLOTS, STATE_SLOTS + 2)),
        TensorSpec("denoised_scale", "float32", (2,)),
        TensorSpec("noise", "float32", _LATENTS),
    ),
    outputs=(TensorSpec("next_state", "float32", _STATE), TensorSpec("denoised", "float32", _LATENTS)),
)

VAE_DECODER = Component(
    "vae_decoder",
    inputs=(TensorSpec("latents", "float32", _LATENTS),),
    outputs=(TensorSpec("image", "uint8", _IMAGE),),
)

COMPONENTS = (TEXT_ENCODER, VAE_ENCODER, DENOISER, VAE_DECODER)


def sizes(
    batch: int, height: int, width: int, *, guided: bool, tokens: int, embedding_width: int
) -> dict[str, int]:
    """Every symbol's value for ``batch`` pictures of ``height`` × ``width`` latents."""
    prompts = 2 if guided else 1
    return {
        "batch": batch,
        "prompts": prompts,
        "unet_batch": prompts * batch,
        "height": height,
        "width": width,
        "image_height": height * PIXELS_PER_LATENT,
        "image_width": width * PIXELS_PER_LATENT,
        "tokens": tokens,
        "embedding_width": embedding_width,
    }

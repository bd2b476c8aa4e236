"""The components as torch modules: a network with all that belongs to it inside one graph.

Inputs, outputs and guidance arithmetic are float32 (or integers) whatever the network computes in.
Every piece around the UNet is a module of its own, because the exporter names nodes after modules:
a builder can find ``/guide/…`` and ``/update/…`` and keep them in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from studio.engines.components import DENOISER, LATENT_CHANNELS, TEXT_ENCODER, VAE_DECODER, VAE_ENCODER


def _dtype(network: nn.Module) -> torch.dtype:
    """What the network computes in."""
    return next(network.parameters()).dtype


class PlainAttention:
    """Attention as the exporter should see it: MatMul, Softmax, MatMul, and constant head sizes.

    The exporter's own form of fused attention derives the scale from shapes at run time, in float32
    even beside float16. Queries are scaled before the product, so that float16 does not overflow.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        tokens = hidden_states
        if spatial := hidden_states.dim() == 4:  # the VAE's: [N, C, h, w]
            tokens = attn.group_norm(hidden_states).flatten(2).transpose(1, 2)
        context = tokens if encoder_hidden_states is None else encoder_hidden_states
        split = (tokens.shape[0], -1, attn.heads, attn.to_q.out_features // attn.heads)
        query = (attn.to_q(tokens) * attn.scale).reshape(split).transpose(1, 2)
        key = attn.to_k(context).reshape(split).permute(0, 2, 3, 1)
        value = attn.to_v(context).reshape(split).transpose(1, 2)
        mixed = ((query @ key).softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        output: Tensor = attn.to_out[0](mixed)
        if spatial:
            output = output.transpose(1, 2).reshape(hidden_states.shape) + hidden_states
        return output


class TextEncoder(nn.Module):
    """Token ids [U, tokens] to embeddings [U, tokens, width]."""

    def __init__(self, text_encoder: Any) -> None:
        super().__init__()
        # The exporter writes the fused attention's causal mask as float32 even beside float16.
        text_encoder.set_attn_implementation("eager")
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        embeddings: Tensor = self.text_encoder(input_ids)[0]
        return embeddings.float()


class VaeEncoder(nn.Module):
    """Pixels [N, H, W, 3] to the scaled mean and deviation [N, 4, h, w] of their latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        vae.set_attn_processor(PlainAttention())
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv if vae.quant_conv is not None else nn.Identity()
        self.scale = float(vae.config.scaling_factor)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.float().permute(0, 3, 1, 2) / 127.5 - 1.0
        moments = self.quant_conv(self.encoder(pixels.to(_dtype(self)))).float()
        mean, log_variance = moments[:, :LATENT_CHANNELS], moments[:, LATENT_CHANNELS:]
        std = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        return mean * self.scale, std * self.scale


class VaeDecoder(nn.Module):
    """Latents [N, 4, h, w] to pixels [N, H, W, 3], rounded half to even as numpy does."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        vae.set_attn_processor(PlainAttention())
        self.post_quant_conv = vae.post_quant_conv if vae.post_quant_conv is not None else nn.Identity()
        self.decoder = vae.decoder
        self.scale = float(vae.config.scaling_factor)

    def forward(self, latents: Tensor) -> Tensor:
        return (self.decode(latents) * 255.0).round().to(torch.uint8)

    def decode(self, latents: Tensor) -> Tensor:
        """RGB in 0..1, [N, H, W, 3]."""
        scaled = (latents / self.scale).to(_dtype(self))
        pixels: Tensor = self.decoder(self.post_quant_conv(scaled)).float()
        return (pixels / 2.0 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)


class Tile(nn.Module):
    """The latents, scaled, once per prompt: [N, …] to [U·N, …]."""

    def forward(self, latents: Tensor, scale: Tensor, embeddings: Tensor) -> Tensor:
        prompts = embeddings.shape[0] // latents.shape[0]
        return (latents * scale).repeat(prompts, 1, 1, 1)


class Guide(nn.Module):
    """Predictions [U·N, 4, h, w] to guided ones [N, 4, h, w], weighed by ``guidance`` [N, U·N].

    A product and a sum, not a matrix product: runtimes round those to bfloat16 or TF32.
    """

    def forward(self, predictions: Tensor, guidance: Tensor) -> Tensor:
        return (guidance[:, :, None, None, None] * predictions[None]).sum(1)


class Update(nn.Module):
    """One row of a sampler's table: the next state from the state, the prediction and fresh noise."""

    def forward(self, state: Tensor, prediction: Tensor, noise: Tensor, update: Tensor) -> Tensor:
        terms = torch.cat([state, prediction[None], noise[None]])
        return (update[:, :, None, None, None, None] * terms[None]).sum(1)


class Denoised(nn.Module):
    """The picture foreseen at this step, for previews."""

    def forward(self, latents: Tensor, prediction: Tensor, scale: Tensor) -> Tensor:
        return scale[0] * latents + scale[1] * prediction


class Denoiser(nn.Module):
    """One step of sampling. Slot 0 of ``state`` holds the current latents."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        unet.set_attn_processor(PlainAttention())
        self.tile = Tile()
        self.unet = unet
        self.guide = Guide()
        self.update = Update()
        self.denoised = Denoised()

    def forward(
        self,
        state: Tensor,
        embeddings: Tensor,
        timestep: Tensor,
        input_scale: Tensor,
        guidance: Tensor,
        update: Tensor,
        denoised_scale: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        dtype = _dtype(self.unet)
        latents = state[0]
        tiled = self.tile(latents, input_scale, embeddings).to(dtype)
        predictions = self.unet(tiled, timestep, embeddings.to(dtype), return_dict=False)[0]
        prediction = self.guide(predictions.float(), guidance)
        next_state = self.update(state, prediction, noise, update)
        return next_state, self.denoised(latents, prediction, denoised_scale)


def modules(pipeline: Any) -> dict[str, nn.Module]:
    """The torch module of each component of a StableDiffusionPipeline."""
    return {
        TEXT_ENCODER.name: TextEncoder(pipeline.text_encoder),
        VAE_ENCODER.name: VaeEncoder(pipeline.vae),
        DENOISER.name: Denoiser(pipeline.unet),
        VAE_DECODER.name: VaeDecoder(pipeline.vae),
    }

"""The networks of the postcards checkpoint and its folder on disk.

Everything is stock diffusers and transformers, so the folder loads with
`StableDiffusionPipeline.from_pretrained` and nothing of ours. Sizes were chosen for two CPU cores:
about 3 GFLOP a UNet forward, 23 GFLOP a decode, under 20 MB in float16.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from assets.training.tokenizer import MAX_TOKENS, VOCABULARY_SIZE, save_tokenizer

IMAGE_SIZE = 256
LATENT_CHANNELS = 4
VAE_FACTOR = 8
TEXT_WIDTH = 128


@dataclass
class Networks:
    """The three trained networks."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text transformer of four layers, 0.9 M parameters."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_unet() -> UNet2DConditionModel:
    """Three levels (32², 16², 8² latents), attention on the lower two, 7.1 M parameters."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // VAE_FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(80, 128, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=TEXT_WIDTH,
    )


def make_vae() -> AutoencoderKL:
    """Factor 8, four latent channels, 0.6 M parameters in the encoder and 1.0 M in the decoder."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 96, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,  # the latents are normalised inside the network: see normalise_latents
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Fold a per-channel shift and scale into the VAE, in place: its latents get mean 0 and deviation 1.

    `mean` and `std` (float32 [4]) are those of the latents as trained. The last convolution of the encoder
    (mean and log variance) and the first of the decoder are 1x1, so the fold is exact.
    """
    mean, std = mean.to(vae.quant_conv.weight), std.to(vae.quant_conv.weight)
    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    weight[:LATENT_CHANNELS] /= std[:, None, None, None]
    bias[:LATENT_CHANNELS] = (bias[:LATENT_CHANNELS] - mean) / std
    bias[LATENT_CHANNELS:] -= 2 * std.log()
    weight, bias = vae.post_quant_conv.weight, vae.post_quant_conv.bias
    bias += weight[:, :, 0, 0] @ mean
    weight *= std[None, :, None, None]


def save_checkpoint(folder: Path, networks: Networks, tokenizer: CLIPTokenizer) -> None:
    """Write the diffusers folder in float16 safetensors; the networks are converted in place."""
    for network in (networks.text_encoder, networks.unet, networks.vae):
        network.half()
    pipeline = StableDiffusionPipeline(
        vae=networks.vae,
        text_encoder=networks.text_encoder,
        tokenizer=tokenizer,
        unet=networks.unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(tokenizer, folder / "tokenizer")
    # transformers loads in the config's dtype unless told; diffusers loads in float32. Make them agree.
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600

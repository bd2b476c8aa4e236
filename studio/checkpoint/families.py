"""Which families the studio draws with, and what the others are called when they are refused."""

from __future__ import annotations

from typing import Any

from studio.errors import CheckpointError

SUPPORTED = "Triton Studio draws with Stable Diffusion 1.x and 2.x checkpoints."

# The beginning of a pipeline's class name, longest first, to what people call it.
PIPELINES = {
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableDiffusionInpaint": "a Stable Diffusion inpainting model",
    "StableDiffusionInstructPix2Pix": "an InstructPix2Pix model",
    "StableDiffusionUpscale": "a Stable Diffusion upscaler",
    "StableDiffusionLatentUpscale": "a Stable Diffusion upscaler",
    "StableDiffusionDepth2Img": "a Stable Diffusion depth model",
    "StableDiffusionImageVariation": "a Stable Diffusion image-variation model",
    "StableUnCLIP": "Stable unCLIP",
    "StableCascade": "Stable Cascade",
    "Flux": "Flux",
    "Kandinsky": "Kandinsky",
    "PixArt": "PixArt",
    "Sana": "Sana",
    "QwenImage": "Qwen Image",
    "Wan": "Wan",
}
TEXT_TO_IMAGE = {"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"}


def refuse(name: str, what: str) -> CheckpointError:
    """The error for a checkpoint ``name`` that is ``what``."""
    return CheckpointError(f"{name} is {what}, which is not supported.", hint=SUPPORTED)


def refuse_pipeline(class_name: str, name: str) -> None:
    """Raise CheckpointError unless a model_index.json's class is Stable Diffusion's."""
    if class_name in TEXT_TO_IMAGE:
        return
    known = next((label for prefix, label in PIPELINES.items() if class_name.startswith(prefix)), None)
    raise refuse(name, known or f"a {class_name}")


def refuse_unet(config: dict[str, Any], name: str) -> None:
    """Raise CheckpointError for a UNet that needs more than latents, a timestep and embeddings."""
    refuse_channels(int(config.get("in_channels", 4)), name)
    extra = ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
    for option in extra:
        if config.get(option) is not None:
            raise refuse(name, f"a model whose UNet takes more than latents and text ({option})")


def refuse_channels(channels: int, name: str) -> None:
    """Raise CheckpointError unless the UNet takes plain latents."""
    if channels == 4:
        return
    known = {9: "an inpainting model", 8: "an InstructPix2Pix model", 7: "an upscaler", 5: "a depth model"}
    raise refuse(name, f"{known.get(channels, 'another kind of model')} (its UNet takes {channels} channels)")


def refuse_vae(config: dict[str, Any], name: str) -> None:
    """Raise CheckpointError unless the VAE has 4 latent channels and 8 pixels per latent."""
    channels = config.get("latent_channels", 4)
    factor = 2 ** (len(config.get("block_out_channels", ())) - 1)
    if (channels, factor) != (4, 8):
        raise refuse(name, f"a model with {channels} latent channels and {factor} pixels per latent")


def refuse_scheduler(config: dict[str, Any], name: str) -> None:
    """Raise CheckpointError for a noise schedule that our samplers' tables are not made for."""
    kinds = {
        "a model of zero terminal SNR (rescale_betas_zero_snr)": config.get("rescale_betas_zero_snr"),
        "a model with a noise schedule of its own (trained_betas)": config.get("trained_betas"),
        "a model that predicts the picture itself": config.get("prediction_type") == "sample",
    }
    for what, is_so in kinds.items():
        if is_so:
            raise refuse(name, what)


def family_of(text_config: dict[str, Any]) -> str:
    """``sd1`` for CLIP's text encoder, ``sd2`` for OpenCLIP's: they differ in the activation."""
    return "sd2" if text_config.get("hidden_act", "quick_gelu") == "gelu" else "sd1"

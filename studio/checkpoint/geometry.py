"""diffusers' configurations for a single-file checkpoint, from the shapes of its tensors.

The layer plan is that of Stable Diffusion 1.x and 2.x (Rombach et al., "High-Resolution Image
Synthesis with Latent Diffusion Models", 2022, and its published configurations); widths are read off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.checkpoint.checkpoint import Checkpoint

Shapes = Mapping[str, tuple[int, ...]]

_UNET = "model.diffusion_model."
_CLIP = "cond_stage_model.transformer.text_model."
_OPEN_CLIP = "cond_stage_model.model."


def configs(shapes: Shapes, checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The JSON files of a diffusers folder without weights and tokenizer, by their names in it."""
    second = checkpoint.family == "sd2"
    return {
        "model_index.json": _INDEX,
        "scheduler/scheduler_config.json": _scheduler(checkpoint.prediction_type),
        "text_encoder/config.json": _open_clip(shapes) if second else _clip(shapes),
        "unet/config.json": _unet(shapes, second, checkpoint.default_size[0] // 8),
        "vae/config.json": _vae(shapes, checkpoint.default_size[0]),
    }


_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _scheduler(prediction_type: str) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "prediction_type": "epsilon" if prediction_type == "unknown" else prediction_type,
    }


def _unet(shapes: Shapes, second: bool, sample_size: int) -> dict[str, Any]:
    width = shapes[f"{_UNET}input_blocks.0.0.weight"][0]
    widths = [width, 2 * width, 4 * width, 4 * width]
    attention = f"{_UNET}input_blocks.1.1."
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "cross_attention_dim": shapes[f"{attention}transformer_blocks.0.attn2.to_k.weight"][1],
        # diffusers reads this as the number of heads: 8 in 1.x, heads of 64 channels in 2.x
        "attention_head_dim": [max(1, w // 64) for w in widths] if second else 8,
        "use_linear_projection": len(shapes[f"{attention}proj_in.weight"]) == 2,
    }


def _vae(shapes: Shapes, sample_size: int) -> dict[str, Any]:
    width = shapes["first_stage_model.encoder.conv_in.weight"][0]
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": sample_size,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [width, 2 * width, 4 * width, 4 * width],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "scaling_factor": 0.18215,
    }


def _clip(shapes: Shapes) -> dict[str, Any]:
    vocabulary, width = shapes[f"{_CLIP}embeddings.token_embedding.weight"]
    return {
        "num_hidden_layers": _layers(shapes, f"{_CLIP}encoder.layers."),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shapes[f"{_CLIP}encoder.layers.0.mlp.fc1.weight"][0],
        "max_position_embeddings": shapes[f"{_CLIP}embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        **_text_encoder(vocabulary, width),
    }


def _open_clip(shapes: Shapes) -> dict[str, Any]:
    vocabulary, width = shapes[f"{_OPEN_CLIP}token_embedding.weight"]
    layers = f"{_OPEN_CLIP}transformer.resblocks."
    return {
        "num_hidden_layers": _layers(shapes, layers) - 1,  # 2.x is conditioned on the layer before the last
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shapes[f"{layers}0.mlp.c_fc.weight"][0],
        "max_position_embeddings": shapes[f"{_OPEN_CLIP}positional_embedding"][0],
        "hidden_act": "gelu",
        **_text_encoder(vocabulary, width),
    }


def _text_encoder(vocabulary: int, width: int) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "architectures": ["CLIPTextModel"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "projection_dim": width,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def _layers(shapes: Shapes, prefix: str) -> int:
    return 1 + max(int(key.removeprefix(prefix).split(".")[0]) for key in shapes if key.startswith(prefix))

"""Tiny Stable Diffusion checkpoints with random weights, as a pipeline, a folder, or one file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENIZER = Path(__file__).parents[1] / "assets" / "postcards" / "tokenizer"
WIDTHS = (32, 64, 128, 128)


def pipeline(family: str = "sd1", prediction_type: str = "epsilon", text_width: int = 64) -> Any:
    """Stable Diffusion 1.x's or 2.x's layer plan, a tenth as wide."""
    second = family == "sd2"
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!" if second else "<|endoftext|>")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=1024,
            hidden_size=text_width,
            projection_dim=text_width,
            intermediate_size=4 * text_width,
            num_hidden_layers=23 if second else 12,
            num_attention_heads=text_width // 64,
            hidden_act="gelu" if second else "quick_gelu",
            bos_token_id=1022,
            eos_token_id=1023,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=WIDTHS,
        cross_attention_dim=text_width,
        attention_head_dim=[max(1, width // 64) for width in WIDTHS] if second else 8,
        use_linear_projection=second,
    )
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=64,
    )
    for network in (text_encoder, unet, vae):
        _randomise(network.eval())
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def beyond_float16(folder: Path) -> Path:
    """A diffusers folder whose VAE decoder leaves float16's range; returns it."""
    pipe = pipeline("sd1")
    pipe.vae.decoder.conv_in.weight.data *= 1e6
    pipe.save_pretrained(folder)
    return folder


def _randomise(network: torch.nn.Module) -> None:
    """Ones and zeros would hide exchanged tensors."""
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
        elif name.endswith("bias"):
            parameter.data = 0.1 * torch.randn_like(parameter)


def save_single_file(pipe: Any, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write ``pipe`` as the one file its first authors would have, and CLIP's vocabulary beside it."""
    second = pipe.text_encoder.config.hidden_act == "gelu"
    tensors = {f"model.diffusion_model.{_unet_key(k)}": v for k, v in pipe.unet.state_dict().items()}
    for key, value in pipe.vae.state_dict().items():
        renamed = _vae_key(key)
        square = ".attn_1." in renamed and "norm" not in renamed and value.ndim == 2
        tensors[f"first_stage_model.{renamed}"] = value[:, :, None, None] if square else value
    text = {key.removeprefix("text_model."): value for key, value in pipe.text_encoder.state_dict().items()}
    tensors |= _open_clip(text) if second else {f"{CLIP}{key}": value for key, value in text.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=metadata)
    (path.parent / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(TOKENIZER / name, path.parent / "tokenizer" / name)
    return path


CLIP = "cond_stage_model.transformer.text_model."
OPEN_CLIP = "cond_stage_model.model."
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _unet_key(key: str) -> str:
    for ours, theirs in UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    if "resnets" in key:
        for ours, theirs in RESNET.items():
            key = key.replace(f".{ours}.", f".{theirs}.")

    def down(match: re.Match[str]) -> str:
        block, kind, layer = int(match[1]), match[2], int(match[3])
        if kind == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.op."
        return f"input_blocks.{3 * block + layer + 1}.{int(kind == 'attentions')}."

    def up(match: re.Match[str]) -> str:
        block, kind, layer = int(match[1]), match[2], int(match[3])
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{1 if block == 0 else 2}."
        return f"output_blocks.{3 * block + layer}.{int(kind == 'attentions')}."

    key = re.sub(r"down_blocks\.(\d)\.(\w+)\.(\d)\.(?:conv\.(?=weight|bias))?", down, key)
    key = re.sub(r"up_blocks\.(\d)\.(\w+)\.(\d)\.", up, key)
    key = key.replace("mid_block.attentions.0.", "middle_block.1.")
    return re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"middle_block.{2 * int(m[1])}.", key)


def _vae_key(key: str) -> str:
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "attentions" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        key = key.replace("to_out.0", "proj_out")
        return re.sub(r"to_([qkv])", r"\1", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)


def _open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    inner = {"layer_norm": "ln_", ".fc1.": ".c_fc.", ".fc2.": ".c_proj.", ".self_attn.": ".attn."}
    tensors = {}
    for key, value in text.items():
        if key in named:
            tensors[OPEN_CLIP + named[key]] = value
        elif match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", key):
            parts = [text[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name = f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"
            tensors[OPEN_CLIP + name] = torch.cat(parts)
        elif not re.search(r"[kv]_proj", key):
            for ours, theirs in inner.items():
                key = key.replace(ours, theirs)
            tensors[OPEN_CLIP + key.replace("encoder.layers.", "transformer.resblocks.")] = value
    last = {key: value for key, value in tensors.items() if ".resblocks.22." in key}
    return tensors | {key.replace(".22.", ".23."): value.clone() for key, value in last.items()}

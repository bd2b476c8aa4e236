"""A checkpoint as one .safetensors file, in the layout of Stable Diffusion's first authors."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from studio.checkpoint import geometry
from studio.checkpoint.checkpoint import Checkpoint
from studio.checkpoint.families import refuse, refuse_channels
from studio.checkpoint.tokenizer import write_clip_tokenizer
from studio.checkpoint.weights import Header, digest_weights, read_header
from studio.errors import CheckpointError
from studio.report import Report

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer.text_model."
OPEN_CLIP = "cond_stage_model.model."

# A tensor name's beginning that gives another kind of file away, and what people call that kind.
# The first that matches counts.
OTHERS = {
    "lora_": "a LoRA, an addition to a checkpoint and not one itself",
    "control_model.": "a ControlNet",
    "input_hint_block.": "a ControlNet",
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "conditioner.embedders.1.": "Stable Diffusion XL",
    "conditioner.embedders.0.model.": "the Stable Diffusion XL refiner",
    "emb_params": "a textual inversion embedding",
    "encoder.down.": "a VAE alone",
    "text_model.": "a text encoder alone",
    "down_blocks.": "a UNet alone",
}
# Tensors of a whole UNet, VAE and text encoder: a file with fewer is a part or a torso.
WHOLE = {UNET: 686, VAE: 248, CLIP: 196, OPEN_CLIP: 290}


def inspect_file(path: Path, source: str) -> Checkpoint:
    """Tell the family of the checkpoint from its table of contents. Raises CheckpointError."""
    header = read_header(path)
    family = _family(header)
    prediction_type = _prediction_type(header, family)
    edge = 768 if family == "sd2" and prediction_type != "epsilon" else 512
    return Checkpoint(
        name=path.stem,
        source=source,
        path=path,
        family=family,
        prediction_type=prediction_type,
        digest=digest_weights(header),
        default_size=(edge, edge),
    )


def load_file(checkpoint: Checkpoint, report: Report) -> Any:
    """The StableDiffusionPipeline of the file, float32 on the CPU. Raises CheckpointError."""
    import torch
    from diffusers import StableDiffusionPipeline

    shapes = read_header(checkpoint.path).shapes
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, config in geometry.configs(shapes, checkpoint).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(config), encoding="utf-8")
        write_clip_tokenizer(checkpoint, folder / "tokenizer", report)
        pipeline_class: Any = StableDiffusionPipeline
        pipeline = pipeline_class.from_single_file(
            str(checkpoint.path),
            config=str(folder),
            local_files_only=True,
            torch_dtype=torch.float32,
            safety_checker=None,
            feature_extractor=None,
        )
    if checkpoint.prediction_type == "unknown":
        pipeline.scheduler.register_to_config(prediction_type=_try_prediction_type(pipeline.unet))
    return pipeline


def _family(header: Header) -> str:
    name, shapes = header.path.name, header.shapes
    for prefix, kind in OTHERS.items():
        if any(key.startswith(prefix) for key in shapes):
            raise refuse(name, kind)
    first = shapes.get(f"{UNET}input_blocks.0.0.weight")
    if first is None or len(first) != 4:
        raise refuse(name, "not a Stable Diffusion checkpoint")
    refuse_channels(first[1], name)
    counts = {prefix: sum(key.startswith(prefix) for key in shapes) for prefix in WHOLE}
    text = CLIP if counts[CLIP] else OPEN_CLIP
    for prefix, part in ((UNET, "UNet"), (VAE, "VAE"), (text, "text encoder")):
        if counts[prefix] < WHOLE[prefix]:
            raise CheckpointError(
                f"{name} holds {counts[prefix]} of the {WHOLE[prefix]} tensors of a {part}.",
                hint="Use a checkpoint file with UNet, VAE and text encoder in it.",
            )
    return "sd1" if text == CLIP else "sd2"


def _prediction_type(header: Header, family: str) -> str:
    """From what writers of checkpoints leave: a marker tensor, metadata, or a .yaml beside the file."""
    metadata = header.metadata
    said = metadata.get("modelspec.prediction_type", "").lower()
    yaml = header.path.with_suffix(".yaml")
    described = yaml.read_text(encoding="utf-8", errors="replace") if yaml.is_file() else ""
    quoteless = described.replace('"', "").replace("'", "")
    if "v_pred" in header.shapes or said.startswith("v") or "parameterization: v" in quoteless:
        return "v_prediction"
    if family == "sd1" or said.startswith("eps") or described:
        return "epsilon"
    return "unknown"


def _try_prediction_type(unet: Any) -> str:
    """Tell from what the UNet answers to nearly pure noise: its noise (epsilon), or almost its opposite (v).

    At the last timestep v = alpha·noise - sigma·picture and alpha is near 0, so a v-predicting UNet's
    answer does not follow its input. The test is AUTOMATIC1111's.
    """
    import torch

    flat = torch.full((1, 4, 8, 8), 0.5)
    context = torch.full((1, 77, unet.config.cross_attention_dim), 0.5)
    with torch.no_grad():
        answer = unet(flat, torch.tensor([999]), context, return_dict=False)[0]
    return "v_prediction" if float((answer - flat).mean()) < -1 else "epsilon"

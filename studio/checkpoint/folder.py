"""A checkpoint as a diffusers folder: what it must hold, and how it is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from studio.checkpoint.checkpoint import Checkpoint
from studio.checkpoint.families import family_of, refuse_pipeline, refuse_scheduler, refuse_unet, refuse_vae
from studio.checkpoint.weights import digest_weights, read_header
from studio.errors import CheckpointError

WEIGHTS = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
CONFIGS = (
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
)


def inspect_folder(path: Path, name: str, source: str) -> Checkpoint:
    """Check the folder without loading its weights. Raises CheckpointError saying what is wrong with it."""
    index = _read_json(path / "model_index.json")
    refuse_pipeline(str(index.get("_class_name")), name)
    text, unet, vae, scheduler = (_read_json(path / config) for config in CONFIGS)
    refuse_unet(unet, name)
    refuse_vae(vae, name)
    refuse_scheduler(scheduler, name)
    if not (path / "tokenizer").is_dir():
        raise CheckpointError(
            f"{path} has no tokenizer folder.", hint="Download the checkpoint again, whole."
        )
    size = unet.get("sample_size") or 64
    height, width = (size, size) if isinstance(size, int) else size
    return Checkpoint(
        name=name,
        source=source,
        path=path,
        family=family_of(text),
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        digest=_digest(path),
        default_size=(width * 8, height * 8),
    )


def weight_files(path: Path, component: str) -> list[Path]:
    """The safetensors of one component: the full-precision ones where both variants are there."""
    folder, stem = path / component, WEIGHTS[component]
    for pattern in (f"{stem}.safetensors", f"{stem}-*-of-*.safetensors", f"{stem}.fp16*.safetensors"):
        if found := sorted(folder.glob(pattern)):
            return found
    pickles = [file.name for file in folder.glob("*.bin")] if folder.is_dir() else []
    if pickles:
        raise CheckpointError(
            f"{folder} has only {pickles[0]}, a pickle: opening one can run any program hidden in it.",
            hint="Use a version of this checkpoint with .safetensors files.",
        )
    raise CheckpointError(
        f"{folder} has no {stem}.safetensors.", hint="Download the checkpoint again, whole."
    )


def load_folder(path: Path) -> Any:
    """The StableDiffusionPipeline of the folder, float32 on the CPU."""
    import torch
    from diffusers import StableDiffusionPipeline

    half = any(".fp16" in weight_files(path, component)[0].name for component in WEIGHTS)
    pipeline_class: Any = StableDiffusionPipeline
    pipeline = pipeline_class.from_pretrained(
        path,
        variant="fp16" if half else None,
        torch_dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for component in WEIGHTS:  # what a file lacks would silently be random
        stored = sum(len(read_header(file).shapes) for file in weight_files(path, component))
        needed = len(list(getattr(pipeline, component).parameters()))
        if stored < needed:
            raise CheckpointError(
                f"{path.name} holds {stored} of the {needed} tensors of its {component}.",
                hint="Download the checkpoint again, whole.",
            )
    return pipeline


def _digest(path: Path) -> str:
    """Of the weights, the configurations and the tokenizer; names are part of it."""
    digest = hashlib.sha256()
    for component in WEIGHTS:
        for file in weight_files(path, component):
            digest.update(f"{component}/{file.name}:{digest_weights(read_header(file))}\n".encode())
    texts = [path / config for config in CONFIGS]
    for file in texts + sorted(file for file in (path / "tokenizer").iterdir() if file.is_file()):
        digest.update(f"{file.relative_to(path)}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing.",
            hint="A diffusers folder has a model_index.json, and a folder with a config.json for every part.",
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.", hint="Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a configuration.", hint="Download it again.")
    return content

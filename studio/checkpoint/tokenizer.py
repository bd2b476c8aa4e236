"""CLIP's vocabulary for single-file checkpoints, which do not carry it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from studio.checkpoint.checkpoint import Checkpoint
from studio.errors import CheckpointError
from studio.report import Report

FILES = ("vocab.json", "merges.txt")
HUB_ID = "openai/clip-vit-large-patch14"
PADDING = {"sd1": "<|endoftext|>", "sd2": "!"}  # as Stable Diffusion was trained


def write_clip_tokenizer(checkpoint: Checkpoint, folder: Path, report: Report) -> None:
    """Fill ``folder`` with a CLIP tokenizer that pads as the family does. Raises CheckpointError.

    The vocabulary is taken from ``tokenizer/`` beside the checkpoint, else from the Hugging Face cache,
    else from the Hub.
    """
    folder.mkdir()
    for name, file in _vocabulary(checkpoint, report).items():
        shutil.copyfile(file, folder / name)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": PADDING[checkpoint.family],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _vocabulary(checkpoint: Checkpoint, report: Report) -> dict[str, Path]:
    beside = checkpoint.path.parent / "tokenizer"
    if all((beside / name).is_file() for name in FILES):
        return {name: beside / name for name in FILES}
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = {name: try_to_load_from_cache(HUB_ID, name) for name in FILES}
    if all(isinstance(file, str) for file in cached.values()):
        return {name: Path(str(file)) for name, file in cached.items()}
    report("Downloading CLIP's vocabulary", None)
    try:
        return {name: Path(hf_hub_download(HUB_ID, name)) for name in FILES}
    except Exception as error:  # the Hub's client raises its own, httpx's and OSError
        raise CheckpointError(
            f"{checkpoint.path.name} does not carry the vocabulary of its text encoder, and that could not "
            f"be downloaded from huggingface.co/{HUB_ID}.",
            hint=f"Connect to the internet once, or put {' and '.join(FILES)} of that model into {beside}.",
        ) from error

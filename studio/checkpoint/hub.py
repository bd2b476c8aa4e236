"""A checkpoint on the Hugging Face Hub: downloaded once, used without a network ever after."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checkpoint.blob import fetch_blob
from studio.checkpoint.checkpoint import Checkpoint
from studio.checkpoint.families import refuse_pipeline
from studio.checkpoint.folder import CONFIGS, WEIGHTS, inspect_folder
from studio.errors import CheckpointError, why
from studio.report import Report

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

INDEX = "model_index.json"


def is_hub_id(model: str) -> bool:
    """Whether ``model`` looks like ``owner/name``."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model) is not None


def fetch(hub_id: str, report: Report) -> Checkpoint:
    """The checkpoint ``owner/name`` from the Hub's cache on this machine, downloading what is missing.

    A download that was cut goes on where it stopped. Raises CheckpointError.
    """
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, INDEX)
    if isinstance(index, str):
        try:
            return _inspect(hub_id, Path(index).parent)
        except CheckpointError:
            pass  # an interrupted download: go on with it
    try:
        return _inspect(hub_id, _download(hub_id, report))
    except CheckpointError:
        raise
    except Exception as error:  # the Hub's client raises its own, httpx's and OSError
        raise _explain(hub_id, error) from error


def _inspect(hub_id: str, folder: Path) -> Checkpoint:
    return inspect_folder(folder, name=hub_id.split("/")[1], source=hub_id)


def _download(hub_id: str, report: Report) -> Path:
    import json

    from huggingface_hub import HfApi, hf_hub_download

    report(f"Asking the Hugging Face Hub for {hub_id}", None)
    info = HfApi().model_info(hub_id, files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    if INDEX not in files:
        raise CheckpointError(
            f"{hub_id} is not a checkpoint in diffusers' layout: it has no {INDEX}.",
            hint="If it offers a .safetensors file, download that and name the file.",
        )
    # By its branch, not its commit: so the cache knows later, without a network, what the branch was.
    index = Path(hf_hub_download(hub_id, INDEX))
    class_name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    refuse_pipeline(str(class_name), hub_id)

    wanted = _wanted(hub_id, files)
    total = sum(file.size or 0 for file in wanted)
    done = 0
    for file in wanted:
        fetch_blob(hub_id, file.rfilename, str(info.sha), _progress(hub_id, done, total, report))
        hf_hub_download(hub_id, file.rfilename, revision=info.sha)  # finds the blob, and links to it
        done += file.size or 0
    return index.parent


def _wanted(hub_id: str, files: dict[str, RepoSibling]) -> list[RepoSibling]:
    """Configurations, tokenizer and weights; of the weights half-precision safetensors if there are any."""
    names = [INDEX, *CONFIGS, *(name for name in files if name.startswith("tokenizer/"))]
    weights = {part: _weights(part, list(files)) for part in WEIGHTS}
    for part, found in weights.items():
        if found:
            continue
        if any(name.startswith(f"{part}/") and name.endswith(".bin") for name in files):
            raise CheckpointError(
                f"{hub_id} offers its {part} as a pickle only, and opening a pickle can run any program "
                "hidden in it.",
                hint="Choose a model that offers safetensors.",
            )
        raise CheckpointError(
            f"{hub_id} has no {part}/{WEIGHTS[part]}.safetensors.", hint="Choose another model."
        )
    names += [name for found in weights.values() for name in found]
    return [files[name] for name in names if name in files]


def _weights(part: str, names: list[str]) -> list[str]:
    stem = rf"{part}/{WEIGHTS[part]}"
    for pattern in (
        rf"{stem}\.fp16\.safetensors",
        rf"{stem}\.safetensors",
        rf"{stem}-\d+-of-\d+\.safetensors",
    ):
        if found := [name for name in names if re.fullmatch(pattern, name)]:
            sharded = f"{stem}.safetensors.index.json"
            return found + ([sharded] if sharded in names and len(found) > 1 else [])
    return []


def _progress(hub_id: str, done: int, total: int, report: Report) -> Any:
    """A tqdm class that reports bytes of all files instead of drawing a bar for each."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": _Nowhere(), "mininterval": 0.5})

        def display(self, *_args: Any, **_kwargs: Any) -> None:
            now = done + self.n
            fraction = min(now / total, 1.0) if total else None
            report(f"Downloading {hub_id}: {now / 1e6:,.0f} of {total / 1e6:,.0f} MB", fraction)

    return Reporting


class _Nowhere:
    """A file that forgets."""

    def write(self, _text: str) -> None: ...

    def flush(self) -> None: ...


def _explain(hub_id: str, error: Exception) -> CheckpointError:
    from huggingface_hub import errors

    page = f"huggingface.co/{hub_id}"
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{hub_id} is gated: its owner asks you to accept terms first.",
            hint=f"Accept them at {page}, then run `hf auth login` or set HF_TOKEN.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"There is no public model {hub_id} on the Hugging Face Hub, and no folder or file of that name.",
            hint="Check the spelling; for a private model run `hf auth login` or set HF_TOKEN first.",
        )
    if isinstance(error, OSError) and error.errno is not None and error.errno in (28, 30, 13):
        return CheckpointError(
            f"{hub_id} could not be written to disk: {why(error)}.",
            state="What was downloaded so far is kept.",
            hint="Free some space, or name another folder with HF_HOME.",
        )
    return CheckpointError(
        f"{hub_id} is not on this machine yet and could not be downloaded: {_first_line(error)}",
        state="What was downloaded so far is kept.",
        hint="Check the network connection and start again.",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

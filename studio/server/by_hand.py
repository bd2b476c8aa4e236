"""A folder from which Triton can be run by hand: the models, their ONNX files, and a compose file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath

from studio.errors import SettingsError, why
from studio.server.container.image import NEWEST_CUDA, requirements
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

COMPOSE = Path(__file__).parent / "compose"
INSIDE = PurePosixPath("/studio")  # where compose.yaml mounts the folder


def write(folder: Path, repository: Repository, gpu: bool) -> None:
    """Write everything that ``docker compose up`` in ``folder`` needs; raises SettingsError where it cannot.

    Each component runs on ONNX: a plan fits one GPU and one TensorRT only, and these may be any.
    """
    if _holds_something(folder):
        raise SettingsError(f"{folder} is not empty.", hint="Name a new folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(COMPOSE, folder, dirs_exist_ok=True)
        shutil.copytree(repository.model_folder, folder / "model")
        engines = {
            name: [Engine("onnxruntime", f"{name}.onnx", "fp32")]
            for name in repository.models
            if (folder / "model" / f"{name}.onnx").is_file()
        }
        inside = replace(
            repository,
            model_folder=INSIDE / "model",
            cache_folder=PurePosixPath("/tmp"),
            engines=engines,
            threads=0,
        )
        inside.write(folder / "models")
        wanted = requirements(NEWEST_CUDA if gpu else None)
        (folder / "requirements.txt").write_text("\n".join([*wanted, ""]), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # it was empty, or not there
        raise SettingsError(
            f"{folder} could not be written: {why(error)}.", hint="Name another folder."
        ) from error


def _holds_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SettingsError(f"{folder} cannot be read: {why(error)}.", hint="Name another folder.") from error

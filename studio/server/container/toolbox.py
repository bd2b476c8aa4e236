"""What builds engines for a container: the TensorRT that is in its image."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.gpu import Gpu
from studio.report import Report
from studio.server.container import engine, image

PYTHON_INSIDE = "studio.server.container.python"


@dataclass(frozen=True)
class Toolbox:
    """A TensorRT inside an image: its exact version, and what starts a Python that has it."""

    version: str
    python: Sequence[str]


def open_toolbox(gpu: Gpu, wanted_image: str, cache_dir: Path, report: Report) -> Toolbox | None:
    """The TensorRT of the image that will serve ``gpu``, fetched as needed; None where it has none.

    Raises DockerError.
    """
    client = engine.connect()
    with contextlib.closing(client):
        found = image.ensure(client, engine.image_for(gpu, wanted_image), report, gpu=True)
    if found.tensorrt is None:
        return None
    return Toolbox(found.tensorrt, prefix(found.id, cache_dir, gpu.uuid))


def prefix(image_id: str, cache_dir: Path, gpu_uuid: str = "") -> list[str]:
    """What to put before Python's arguments to have them run inside the image."""
    gpu = ["--gpu", gpu_uuid] if gpu_uuid else []
    return [sys.executable, "-m", PYTHON_INSIDE, "--image", image_id, "--cache", str(cache_dir), *gpu, "--"]

"""The image the container runs: fetched with progress, and dressed with what the models import."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound

from studio.engines.cpu import OPENVINO, installed
from studio.errors import DockerError
from studio.report import Report
from studio.server.container import engine
from studio.server.container.refusals import explain

logger = logging.getLogger(__name__)

GIB = 2**30
# 9 GB to download and 16 to 27 unpacked, both on disk for a while.
PULL_NEEDS_BYTES = 40 * GIB
PULL_ATTEMPTS = 3
# What the models import: on the CPU, and on a GPU.
IMPORTED = ("tokenizers", "onnxruntime")
IMPORTED_WITH_GPU = ("tokenizers", "onnxruntime-gpu", "cuda-python")
# By the image's CUDA, whose driver this is; the newer one as in pyproject.toml.
NEWEST_CUDA = "13"
CUDA_PYTHON_VERSIONS = {"12": "12.9.4", NEWEST_CUDA: "13.0.3"}

# Runs in the base image and prints what it holds: its Python, TensorRT's exact version and packages.
PROBE = """
import importlib.metadata as m, json, os, re, subprocess, sys
try:
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", "libnvinfer1*"]
    out = subprocess.run(query, capture_output=True, text=True).stdout
except OSError:
    out = ""
found = re.search(r"^libnvinfer\\d+ ([\\d.]+)-\\d+\\+cuda(\\d+)", out, re.M)
print(json.dumps({
    "python": "%d.%d" % sys.version_info[:2],
    "tensorrt": found and found.group(1), "cuda": found and found.group(2),
    "backends": os.listdir("/opt/tritonserver/backends"),
    "packages": {d.metadata["Name"].lower(): d.version for d in m.distributions()},
}))
"""


@dataclass(frozen=True)
class Image:
    """What an image holds. ``tensorrt`` and ``cuda`` are None in one without TensorRT."""

    id: str
    python: str
    tensorrt: str | None
    cuda: str | None
    packages: dict[str, str]
    backends: list[str]  # Triton's own, beside Python

    def missing(self, gpu: bool) -> list[str]:
        """The pip requirements that the models need, on a GPU or on the CPU, and this image lacks."""
        wanted = requirements((self.cuda or NEWEST_CUDA) if gpu else None)
        if gpu and self.tensorrt:
            wanted.append(f"tensorrt-cu{self.cuda}=={self.tensorrt}")
        if not gpu and (version := installed(OPENVINO)):
            wanted.append(f"{OPENVINO}=={version}")
        have = {f"{name}=={version}" for name, version in self.packages.items()}
        return [one for one in wanted if one not in have]


def requirements(cuda: str | None) -> list[str]:
    """What the models import, as pip's requirements, at the versions that the studio itself runs.

    ``cuda`` is the image's CUDA, such as "13"; None for a CPU.
    """
    names = IMPORTED_WITH_GPU if cuda else IMPORTED
    return [f"{name}=={_our_version(name, cuda)}" for name in names]


def ensure(client: docker.DockerClient, reference: str, report: Report, *, gpu: bool) -> Image:
    """An image with everything the models import on a GPU or on the CPU, pulled and built as needed.

    Raises DockerError with what to do; layers that arrived are kept for the next attempt.
    """
    base = probe(client, ensure_base(client, reference, report))
    missing = base.missing(gpu)
    return replace(base, id=derive(client, base, missing, report)) if missing else base


def ensure_base(client: docker.DockerClient, reference: str, report: Report) -> str:
    """The id of the image named ``reference``, pulled where it is not here yet."""
    try:
        return str(client.images.get(reference).id)
    except ImageNotFound:
        pull(client, reference, report)
        return str(client.images.get(reference).id)


def pull(client: docker.DockerClient, reference: str, report: Report) -> None:
    """Fetch an image, telling the progress of all its layers together."""
    _check_room(client)
    for attempt in range(1, PULL_ATTEMPTS + 1):
        try:
            _pull_once(client, reference, report)
            return
        except DockerError as error:
            if attempt == PULL_ATTEMPTS or "could not be reached" not in error.what:
                raise
            logger.warning("Pulling %s broke off (%s); going on where it stopped", reference, error.what)


def _pull_once(client: docker.DockerClient, reference: str, report: Report) -> None:
    repository, tag = _split(reference)
    layers: dict[str, tuple[int, int]] = {}
    for line in _answers(client.api.pull(repository, tag=tag, stream=True, decode=True)):
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            layers[line["id"]] = (detail["current"], detail["total"])
        elif line.get("status") in ("Download complete", "Pull complete") and line.get("id") in layers:
            layers[line["id"]] = (layers[line["id"]][1],) * 2
        done, total = (sum(column) for column in zip(*layers.values(), strict=True)) if layers else (0, 0)
        if total:
            arrived = sum(have == whole for have, whole in layers.values())
            size = f"{done / GIB:.1f} of {total / GIB:.1f} GB, {arrived} of {len(layers)} layers"
            report(f"Fetching {reference}: {size}", done / total)


def probe(client: docker.DockerClient, image_id: str) -> Image:
    """Look into a base image by running its Python once."""
    try:
        said = engine.said_by(client, image_id, "python3", ["-c", PROBE])
    except (DockerException, OSError) as error:
        raise explain(error) from error
    return Image(id=image_id, **json.loads(said.strip().splitlines()[-1]))


def derive(client: docker.DockerClient, base: Image, missing: list[str], report: Report) -> str:
    """An image on top of ``base`` with what was ``missing`` installed; at once where it was built before."""
    dockerfile = "\n".join(
        (
            f"FROM {base.id}",
            "ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1",
            "RUN python3 -m pip install --no-cache-dir " + " ".join(f"'{one}'" for one in missing),
            "LABEL org.triton-studio.image=derived",
        )
    )
    tag = f"triton-studio:{hashlib.sha256(dockerfile.encode()).hexdigest()[:16]}"
    try:
        return str(client.images.get(tag).id)
    except ImageNotFound:
        report(f"Adding {', '.join(missing)} to the image", None)
    answers = client.api.build(
        fileobj=io.BytesIO(dockerfile.encode()), tag=tag, rm=True, forcerm=True, decode=True
    )
    for line in _answers(answers):
        if text := line.get("stream", "").strip():
            report(text.splitlines()[-1], None)
    return str(client.images.get(tag).id)


def _answers(stream: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines of a pull or build. Docker reports their failures inside a stream that began with 200 OK."""
    try:
        for line in stream:
            if "error" in line:
                raise explain(line["error"])
            yield line
    except (APIError, DockerException, OSError) as error:
        raise explain(error) from error


def _check_room(client: docker.DockerClient) -> None:
    root = client.info().get("DockerRootDir", "")
    # A remote engine, or Docker Desktop's virtual machine, has a disk that cannot be seen from here.
    if not os.path.isdir(root):
        return
    free = shutil.disk_usage(root).free
    if free < PULL_NEEDS_BYTES:
        raise DockerError(
            f"Triton's image needs {PULL_NEEDS_BYTES / GIB:.0f} GB on {root}; {free / GIB:.0f} GB are free.",
            state="Nothing was fetched.",
            hint="Free some room (`docker system prune`), move Docker's data, or use `--runtime embedded`.",
        )


def _split(reference: str) -> tuple[str, str]:
    if "@" in reference:
        repository, _, digest = reference.partition("@")
        return repository, digest
    repository, _, tag = reference.rpartition(":")
    return (repository, tag) if repository and "/" not in tag else (reference, "latest")


def _our_version(name: str, cuda: str | None) -> str:
    if name == "cuda-python":
        return CUDA_PYTHON_VERSIONS[cuda or NEWEST_CUDA]
    return importlib.metadata.version(name.removesuffix("-gpu"))

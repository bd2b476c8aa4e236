"""The Docker engine at hand: whether it answers, and whether it can give a container a GPU."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.errors import ContainerError, DockerException, ImageNotFound
from docker.types import DeviceRequest, LogConfig

from studio.errors import DockerError
from studio.gpu import Gpu
from studio.server.container.refusals import explain

# Long enough for an engine that wakes up, short enough not to hold up a start.
ANSWER_SECONDS = 10
WORK_SECONDS = 120  # for a container to be made, started or removed on a busy machine
# NVIDIA's images for drivers from 580 on, and for those before (CUDA 12).
IMAGE = "nvcr.io/nvidia/tritonserver:26.09-py3"
IMAGE_FOR_OLD_DRIVERS = "nvcr.io/nvidia/tritonserver:25.07-py3"
OLD_DRIVERS_BELOW = 580


@dataclass(frozen=True)
class Verdict:
    """Whether the container is the way to run Triton here, and why."""

    usable: bool
    reason: str


def connect() -> docker.DockerClient:
    """The engine of the current context (Docker Desktop and rootless included); raises DockerError."""
    try:
        client = docker.from_env(timeout=ANSWER_SECONDS)
        client.ping()
        client.api.timeout = WORK_SECONDS
    except (DockerException, OSError) as error:
        raise explain(error) from error
    if not _is_here(client.api.base_url):
        client.close()
        raise DockerError(
            "Docker's context points to another machine, where the studio's files are not.",
            hint="Run `docker context use default`, unset DOCKER_HOST, or use `--runtime embedded`.",
        )
    return client


def _is_here(base_url: str) -> bool:
    """Whether the engine sees this machine's files: the SDK's names for a socket, a pipe, or this host."""
    host = urlsplit(base_url).hostname
    return host in ("localhost", "localnpipe", "127.0.0.1", "::1")


def image_for(gpu: Gpu | None, wanted: str = "") -> str:
    """The image to run: the one asked for, else the newest that this GPU's driver can run."""
    if wanted:
        return wanted
    old = gpu is not None and int(gpu.driver.split(".")[0]) < OLD_DRIVERS_BELOW
    return IMAGE_FOR_OLD_DRIVERS if old else IMAGE


def judge(gpu: Gpu | None, wanted_image: str = "") -> Verdict:
    """What ``--runtime auto`` does: the container when it is sure to work and already here, else not.

    A first fetch takes 9 GB, so it is never begun unasked: ``--runtime container`` asks.
    """
    if gpu is None:
        return Verdict(False, "there is no GPU to give it")
    try:
        client = connect()
    except DockerError as error:
        return Verdict(False, error.what[0].lower() + error.what[1:].rstrip("."))
    try:
        image = image_for(gpu, wanted_image)
        try:
            client.images.get(image)
        except ImageNotFound:
            return Verdict(False, f"{image} is not here yet (`--runtime container` fetches it, about 9 GB)")
        except (DockerException, OSError) as error:
            return Verdict(False, str(explain(error)))
        return try_gpu(client, image, gpu)
    finally:
        client.close()


def try_gpu(client: docker.DockerClient, image: str, gpu: Gpu) -> Verdict:
    """Run ``nvidia-smi -L`` in a container that is given the GPU: the only test that decides."""
    try:
        listed = said_by(client, image, "nvidia-smi", ["-L"], device_requests=[gpu_request(gpu)])
    except (DockerException, OSError) as error:
        return Verdict(False, str(explain(error)))
    if gpu.uuid not in listed:
        return Verdict(False, f"its containers see {listed.strip() or 'no GPU'} instead of {gpu.name}")
    return Verdict(True, f"Docker {client.version()['Version']} can use {gpu.name}")


def said_by(client: docker.DockerClient, image: str, program: str, words: list[str], **options: Any) -> str:
    """The standard output of a program in a container of its own. Raises DockerException and OSError.

    The SDK's own `containers.run` leaves behind what does not start, and returns nothing where Docker is
    configured to log elsewhere than to a file.
    """
    container = client.containers.create(
        image,
        words,
        entrypoint=program,
        network_disabled=True,
        cap_drop=["ALL"],
        log_config=LogConfig(type=LogConfig.types.JSON),
        **options,
    )
    try:
        container.start()
        status = container.wait(timeout=WORK_SECONDS)["StatusCode"]
        if status:
            said = container.logs(stdout=False).decode(errors="replace")
            raise ContainerError(container, status, words, image, said)
        return str(container.logs(stderr=False).decode(errors="replace"))
    finally:
        with suppress(DockerException, OSError):
            container.remove(force=True)


def gpu_request(gpu: Gpu) -> DeviceRequest:
    """Ask Docker for exactly this GPU, by UUID: indices change when a card is added."""
    return DeviceRequest(device_ids=[gpu.uuid], capabilities=[["gpu"]])

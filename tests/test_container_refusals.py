"""What Docker says when it refuses, in its own words of several versions, and what a person reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from docker.errors import ImageNotFound

from studio.errors import DockerError
from studio.server.container import image
from studio.server.container.engine import IMAGE, IMAGE_FOR_OLD_DRIVERS, _is_here, image_for, judge
from studio.server.container.refusals import explain, explain_exit
from tests.test_dispatch import gpu

SAID = {
    ('could not select device driver "" with capabilities: [[gpu]]'): "cannot hand the GPU",
    ("failed to discover GPU vendor from CDI: no known GPU vendor found"): "cannot hand the GPU",
    (
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, "
        "please update your driver to a newer version, or use an earlier cuda container: "
        "unknown"
    ): "wants CUDA 13.0",
    (
        "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown"
    ): "driver of this machine",
    (
        "Error while fetching server API version: ('Connection aborted.', "
        "FileNotFoundError(2, 'No such file or directory'))"
    ): "not installed, or its engine is not running",
    (
        "Error while fetching server API version: ('Connection aborted.', "
        "ConnectionRefusedError(111, 'Connection refused'))"
    ): "engine is not running",
    (
        "Error while fetching server API version: ('Connection aborted.', "
        "PermissionError(13, 'Permission denied'))"
    ): "may not talk to",
    (
        "driver failed programming external connectivity on endpoint x: Bind for "
        "127.0.0.1:8001 failed: port is already allocated"
    ): "port for the container is taken",
    (
        "ports are not available: exposing port TCP 127.0.0.1:8001 -> 0.0.0.0:0: listen "
        "tcp 127.0.0.1:8001: bind: address already in use"
    ): "port for the container is taken",
    (
        "listen tcp 127.0.0.1:8001: bind: An attempt was made to access a socket in a way"
        " forbidden by its access permissions."
    ): "Windows keeps that port",
    ("failed to register layer: write /usr/lib/x.so: no space left on device"): "is full",
    ("unauthorized: authentication required"): "wants a login",
    ("manifest for nvcr.io/nvidia/tritonserver:99.99-py3 not found: manifest unknown"): "no such image",
    ('Get "https://nvcr.io/v2/": dial tcp: lookup nvcr.io: no such host'): "could not be reached",
    ("something nobody has seen"): "Docker refused: something nobody has seen.",
}


@pytest.mark.parametrize(("raw", "sentence"), SAID.items(), ids=lambda value: value[:30])
def test_every_refusal_says_what_to_do(raw: str, sentence: str) -> None:
    error = explain(raw)
    assert sentence in error.what
    assert error.state
    assert error.hint


@pytest.mark.parametrize(
    ("code", "out_of_memory", "words"),
    [
        (137, True, "ran out of memory"),
        (137, False, "killed from outside"),
        (139, False, "segmentation"),
        (1, False, "status 1"),
    ],
)
def test_exit_codes_are_explained(code: int, out_of_memory: bool, words: str) -> None:
    error = explain_exit(code, out_of_memory, "The model denoiser could not be loaded.")
    assert words in error.what
    assert "denoiser" in error.state


def test_image_follows_the_driver() -> None:
    assert image_for(gpu(driver="580.159.03")) == IMAGE
    assert image_for(gpu(driver="535.104.05")) == IMAGE_FOR_OLD_DRIVERS
    assert image_for(gpu(driver="535.104.05"), "mine:1") == "mine:1"


def test_no_gpu_means_no_container() -> None:
    verdict = judge(None)
    assert not verdict.usable
    assert "no GPU" in verdict.reason


def test_no_docker_means_no_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    verdict = judge(gpu())
    assert not verdict.usable
    assert "docker" in verdict.reason.lower()


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http+docker://localhost", True),  # a socket, of Docker Desktop and rootless engines too
        ("http+docker://localnpipe", True),  # Windows
        ("http://127.0.0.1:2375", True),
        ("http+docker://ssh", False),
        ("https://build.example:2376", False),
    ],
)
def test_an_engine_on_another_machine_is_of_no_use(url: str, here: bool) -> None:
    assert _is_here(url) is here


class FakeEngine:
    """The SDK's client at its seam: answers to a pull and a build are the daemon's own lines."""

    def __init__(self, pulls: list[list[dict[str, Any]]], room: str = "/nowhere") -> None:
        self.pulls = pulls
        self.here = False
        self.room = room
        self.api = self.images = self

    def info(self) -> dict[str, Any]:
        return {"DockerRootDir": self.room}

    def pull(self, repository: str, tag: str, stream: bool, decode: bool) -> list[dict[str, Any]]:
        lines = self.pulls.pop(0)
        self.here = not any("error" in line for line in lines)
        return lines

    def get(self, name: str) -> Any:
        if not self.here:
            raise ImageNotFound(f"No such image: {name}")
        return type("Image", (), {"id": "sha256:1"})


LAYERS = [
    {"status": "Pulling from nvidia/tritonserver", "id": "26.09-py3"},
    {"status": "Downloading", "id": "a", "progressDetail": {"current": 1 << 30, "total": 4 << 30}},
    {"status": "Downloading", "id": "b", "progressDetail": {"current": 4 << 30, "total": 4 << 30}},
    {"status": "Download complete", "id": "a", "progressDetail": {}},
    {"status": "Status: Downloaded newer image"},
]


def test_pull_tells_the_progress_of_all_layers() -> None:
    told: list[tuple[str, float | None]] = []
    image.ensure_base(
        FakeEngine([LAYERS]), "nvcr.io/nvidia/tritonserver:26.09-py3", lambda *it: told.append(it)
    )
    fractions = [fraction for _, fraction in told]
    assert fractions[0] == pytest.approx(0.25)
    assert fractions[-1] == 1.0
    assert "8.0 of 8.0 GB, 2 of 2 layers" in told[-1][0]


def test_a_pull_that_breaks_off_goes_on() -> None:
    broken = [LAYERS[1], {"error": "unexpected EOF", "errorDetail": {"message": "unexpected EOF"}}]
    engine = FakeEngine([broken, LAYERS])
    assert image.ensure_base(engine, "a/b:c", lambda *_: None) == "sha256:1"


def test_a_pull_that_is_refused_is_not_tried_again() -> None:
    engine = FakeEngine([[{"error": "unauthorized: authentication required"}], LAYERS])
    with pytest.raises(DockerError, match="wants a login"):
        image.ensure_base(engine, "a/b:c", lambda *_: None)
    assert len(engine.pulls) == 1


def test_a_full_disk_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "PULL_NEEDS_BYTES", 1 << 60)
    engine = FakeEngine([LAYERS], room=str(tmp_path))
    with pytest.raises(DockerError, match="GB are free"):
        image.ensure_base(engine, "a/b:c", lambda *_: None)
    assert len(engine.pulls) == 1


def test_requirements_match_the_image_exactly() -> None:
    base = image.Image(
        "sha256:1",
        "3.12",
        "11.3.0.99",
        "13",
        {"tokenizers": image._our_version("tokenizers", "13")},
        ["python"],
    )
    on_gpu, on_cpu = base.missing(gpu=True), base.missing(gpu=False)
    assert "tensorrt-cu13==11.3.0.99" in on_gpu
    assert not any(one.startswith("tokenizers") for one in (*on_gpu, *on_cpu))
    assert not any(one.startswith("openvino") for one in on_gpu)
    assert not any("gpu" in one or "cuda" in one for one in on_cpu)

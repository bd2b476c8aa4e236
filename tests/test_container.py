"""Triton in a real container: a local image with a real CPU Triton, in a real Docker engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import numpy as np
import pytest

from studio.client import RawResult, TritonClient
from studio.dispatch import Dispatcher, Lane
from studio.errors import Cancelled, DockerError, ServerStartError
from studio.generate import Studio
from studio.history import History
from studio.report import silent
from studio.request import ImageRequest, ImageResult, Progress
from studio.server.container import ContainerServer, Settings, sweep
from studio.server.repository import Repository
from studio.server.supervise import Supervisor
from tests.conftest import COMPONENTS, STAND_IN
from tests.fakes import MODEL
from triton_models.diffusion.manifest import Engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

IMAGE = "triton-studio-test:cpu"
MAKE_IMAGE = Path(__file__).parent / "docker" / "make_image.sh"


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The Docker engine with the local image in it."""
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        if os.environ.get("CI"):
            raise
        pytest.skip("no Docker engine answers")
    if not client.images.list(IMAGE):
        if shutil.which("debootstrap") is None or os.getuid() != 0:
            pytest.skip("making the local Triton image needs root and debootstrap")
        subprocess.run([MAKE_IMAGE, IMAGE, sys.executable], check=True, timeout=280)
    yield client
    client.close()


@pytest.fixture
def settings(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a studio of this test's own; whatever it leaves is removed."""
    owner = f"test-{tmp_path.name}-{os.getpid()}"
    cache = tmp_path / "cache"
    (cache / "onnx").mkdir(parents=True)
    tmp_path.chmod(0o755)
    yield Settings(cache, owner, IMAGE)
    for container in containers(engine, owner):
        container.remove(force=True)


@pytest.fixture
def repository(settings: Settings) -> Repository:
    cache = settings.cache_dir
    return Repository(cache / "onnx", {}, cache / "compiled", threads=1, sources=STAND_IN)


@pytest.fixture
def supervisor(repository: Repository, settings: Settings, tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(ContainerServer(repository, tmp_path / "logs", settings)) as running:
        running.start()
        yield running


def containers(engine: docker.DockerClient, owner: str) -> list[docker.models.containers.Container]:
    return engine.containers.list(all=True, filters={"label": f"org.triton-studio.owner={owner}"})


def draw(
    address: str, request: ImageRequest, cancel: threading.Event | None = None
) -> list[Progress | RawResult]:
    client = TritonClient(address)
    try:
        return list(client.generate(request, cancel or threading.Event()))
    finally:
        client.close()


REQUEST = ImageRequest("a boat", steps=5, seed=7, width=64, height=64)


def test_it_streams_in_private_and_leaves_nothing(
    supervisor: Supervisor, engine: docker.DockerClient, settings: Settings
) -> None:
    *steps, result = draw(supervisor.endpoint.address, REQUEST)
    assert [step.step for step in steps if isinstance(step, Progress) and step.stage == "step"] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert isinstance(result, RawResult)
    (container,) = containers(engine, settings.owner)
    published = container.attrs["NetworkSettings"]["Ports"]
    assert [port["HostIp"] for ports in published.values() if ports for port in ports] == ["127.0.0.1"]
    configuration = container.attrs["Config"], container.attrs["HostConfig"]
    assert configuration[0]["User"].split(":")[0] != "0"
    assert configuration[1]["Privileged"] is False
    assert configuration[1]["CapDrop"] == ["ALL"]
    assert [mount["Destination"] for mount in container.attrs["Mounts"] if mount["RW"]] == [
        "/studio/cache/compiled"
    ]
    supervisor.stop()
    assert containers(engine, settings.owner) == []
    assert list((settings.cache_dir / "containers").iterdir()) == []


def test_cancel_ends_it_within_a_step(supervisor: Supervisor) -> None:
    cancel = threading.Event()
    client = TritonClient(supervisor.endpoint.address)
    seen: list[int] = []

    def draw_until_the_third_step() -> None:
        for item in client.generate(replace(REQUEST, steps=100), cancel):
            assert isinstance(item, Progress)
            seen.append(item.step)
            if item.step == 3:
                cancel.set()

    with pytest.raises(Cancelled):
        draw_until_the_third_step()
    client.close()
    assert max(seen) <= 5


def test_a_crash_under_a_request_is_recovered_from(
    supervisor: Supervisor, engine: docker.DockerClient, settings: Settings, tmp_path: Path
) -> None:
    with History(tmp_path / "data") as history:
        studio = Studio(supervisor, MODEL, history)
        items: list[Progress | ImageResult] = []
        for item in studio.generate(replace(REQUEST, steps=40)):
            items.append(item)
            if len(items) == 5:
                containers(engine, settings.owner)[0].kill()
        studio.close()
    assert isinstance(items[-1], ImageResult)
    assert any(isinstance(item, Progress) and item.stage == "restart" for item in items)
    assert len(containers(engine, settings.owner)) == 1


def test_a_killed_studio_s_container_is_gone_on_with_or_removed(
    repository: Repository, settings: Settings, engine: docker.DockerClient, tmp_path: Path
) -> None:
    first = start_and_kill(settings, tmp_path)
    (left,) = containers(engine, settings.owner)
    assert left.id.startswith(first)
    server = ContainerServer(repository, tmp_path / "logs", settings)
    address = server.start(silent).address
    assert [one.id for one in containers(engine, settings.owner)] == [left.id]
    assert isinstance(draw(address, REQUEST)[-1], RawResult)
    server.stop()
    assert containers(engine, settings.owner) == []

    start_and_kill(settings, tmp_path)
    (left,) = containers(engine, settings.owner)
    changed = ContainerServer(replace(repository, threads=2), tmp_path / "logs", settings)
    changed.start(silent)
    (now,) = containers(engine, settings.owner)
    assert now.id != left.id
    changed.stop()


def test_a_studio_without_docker_removes_what_one_with_it_left(
    settings: Settings, engine: docker.DockerClient, tmp_path: Path
) -> None:
    start_and_kill(settings, tmp_path)
    assert len(containers(engine, settings.owner)) == 1
    sweep(settings.cache_dir, settings.owner)
    assert containers(engine, settings.owner) == []


def test_two_studios_do_not_touch_each_other(
    repository: Repository, settings: Settings, engine: docker.DockerClient, tmp_path: Path
) -> None:
    servers = [ContainerServer(repository, tmp_path / "logs" / name, settings) for name in ("a", "b")]
    addresses = [server.start(silent).address for server in servers]
    assert len(set(addresses)) == 2
    servers[0].stop()
    assert len(containers(engine, settings.owner)) == 1
    assert isinstance(draw(addresses[1], REQUEST)[-1], RawResult)
    servers[1].stop()


def test_servers_side_by_side_share_the_work(
    repository: Repository, settings: Settings, engine: docker.DockerClient, tmp_path: Path
) -> None:
    supervisors = [
        Supervisor(ContainerServer(repository, tmp_path / f"logs{index}", settings)) for index in (0, 1)
    ]
    with History(tmp_path / "data") as history, supervisors[0], supervisors[1]:
        for supervisor in supervisors:
            supervisor.start()
        drawn = [0, 0]
        lanes = [
            Lane(str(index), Studio(supervisor, MODEL, history))
            for index, supervisor in enumerate(supervisors)
        ]
        dispatcher = Dispatcher(lanes)
        results: list[ImageResult] = []

        def work(seed: int) -> None:
            *_, last = dispatcher.generate(replace(REQUEST, seed=seed))
            assert isinstance(last, ImageResult)
            results.append(last)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        drawn = [log_of(supervisor).count("step") for supervisor in supervisors]
        dispatcher.close()
    assert sorted(result.seeds[0] for result in results) == list(range(6))
    assert all(lane.pace > 0 for lane in lanes), drawn


def test_a_container_that_ends_says_why(repository: Repository, settings: Settings, tmp_path: Path) -> None:
    broken = replace(repository, engines={"denoiser": [Engine("onnxruntime", "broken", "fp32")]})
    with pytest.raises(ServerStartError, match="denoiser") as caught:
        ContainerServer(broken, tmp_path / "logs", settings).start(silent)
    assert "the engine is broken" in str(caught.value)


def test_an_image_that_is_nowhere_is_said(repository: Repository, settings: Settings, tmp_path: Path) -> None:
    nowhere = replace(settings, image="127.0.0.1:9/nothing:here")
    with pytest.raises(DockerError) as caught:
        ContainerServer(repository, tmp_path / "logs", nowhere).start(silent)
    assert caught.value.hint


def test_a_picture_is_the_embedded_server_s_to_the_byte(
    studio_server: Supervisor, exported: Path, settings: Settings, tmp_path: Path
) -> None:
    cache = exported.parent.parent
    for folder in (cache, *exported.parents[:1], exported):
        folder.chmod(0o755)
    engines = {name: [Engine("onnxruntime", f"{name}.onnx", "fp32")] for name in COMPONENTS}
    repository = Repository(exported, engines, cache / "compiled", threads=2)
    request = ImageRequest("a red boat on the sea", steps=6, seed=11, width=256, height=256)
    start = np.full((256, 256, 3), 90, np.uint8)
    with Supervisor(
        ContainerServer(repository, tmp_path / "logs", replace(settings, cache_dir=cache))
    ) as container:
        container.start()
        for asked in (request, replace(request, image=start, strength=0.5)):
            here, there = (draw(server.endpoint.address, asked)[-1] for server in (studio_server, container))
            assert isinstance(here, RawResult)
            assert isinstance(there, RawResult)
            np.testing.assert_array_equal(here.images, there.images)


CHILD = """
import os, sys
from pathlib import Path
from studio.report import silent
from studio.server.container import ContainerServer, Settings, sweep
from studio.server.repository import Repository
cache, owner, image, sources, logs = sys.argv[1:]
cache = Path(cache)
repository = Repository(cache / "onnx", {}, cache / "compiled", threads=1, sources=Path(sources))
server = ContainerServer(repository, Path(logs), Settings(cache, owner, image))
server.start(silent)
print(server._container.id, flush=True)
sys.stdin.read()
"""


def start_and_kill(settings: Settings, tmp_path: Path) -> str:
    """Start a container in a process that is then killed; returns the container's id."""
    arguments = [
        str(settings.cache_dir),
        settings.owner,
        settings.image,
        str(STAND_IN),
        str(tmp_path / "logs"),
    ]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    identifier = child.stdout.readline().decode().strip()
    child.send_signal(signal.SIGKILL)
    child.wait()
    return identifier


def log_of(supervisor: Supervisor) -> str:
    return "\n".join(supervisor.server.recent_log())

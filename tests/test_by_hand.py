"""Triton run by hand: two servers behind nginx, from the folder that `repository` writes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from studio.client import RawResult, TritonClient
from studio.errors import ServerError, SettingsError
from studio.request import ImageRequest
from studio.server import by_hand
from studio.server.repository import Repository
from tests.patience import eventually
from tests.test_container import IMAGE, draw, engine

__all__ = ["engine"]

MODELS = Repository(Path(), {}, Path()).models


@pytest.fixture
def served(exported: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    by_hand.write(folder, Repository(exported, {}, tmp_path / "compiled"), gpu=False)
    return folder


def test_the_compose_file_loads_every_model(served: Path) -> None:
    compose = (served / "compose.yaml").read_text()
    assert [line.split("=")[1] for line in compose.splitlines() if "--load-model=" in line] == MODELS
    assert (served / "model" / "model.json").is_file()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    with pytest.raises(SettingsError, match="is not empty"):
        by_hand.write(tmp_path, Repository(tmp_path, {}, tmp_path), gpu=False)


@pytest.fixture
def port(engine: docker.DockerClient, served: Path) -> Iterator[int]:
    """Where the proxy of two running servers listens."""
    compose = shutil.which("docker-compose")
    if compose is None:
        if os.environ.get("CI"):
            pytest.fail("CI lacks docker-compose")
        pytest.skip("docker-compose is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    environment = {**os.environ, "TRITON_IMAGE": IMAGE, "NGINX_IMAGE": IMAGE, "TRITON_PORT": str(free)}

    def run(*arguments: str) -> None:
        command = [compose, "--project-name", f"studio{free}", "--profile", "two", *arguments]
        subprocess.run(command, cwd=served, env=environment, check=True, capture_output=True, timeout=200)

    run("up", "-d")
    try:
        yield free
    finally:
        run("down", "--rmi", "local", "--timeout", "5")


@pytest.mark.docker
@pytest.mark.timeout(400)
def test_two_servers_behind_nginx_share_the_work(port: int, engine: docker.DockerClient) -> None:
    servers = engine.containers.list(filters={"name": f"studio{port}_triton"})
    assert len(servers) == 2
    for server in servers:
        assert eventually(lambda server=server: b"Started GRPCInferenceService" in server.logs(), seconds=150)  # type: ignore[misc]
    address = f"127.0.0.1:{port}"
    assert eventually(lambda: is_ready(address), seconds=150)
    results: list[object] = []
    request = ImageRequest("a boat", steps=4, seed=1, width=128, height=128)
    threads = [threading.Thread(target=lambda: results.append(draw(address, request)[-1])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [type(result) for result in results] == [RawResult, RawResult]
    servers[0].stop(timeout=5)
    refusals: list[str] = []
    assert eventually(lambda: is_drawn(address, request, refusals), seconds=60), (
        refusals,
        *(container.logs(tail=20) for container in engine.containers.list(filters={"name": f"studio{port}"})),
    )


def is_drawn(address: str, request: ImageRequest, refusals: list[str]) -> bool:
    try:
        return isinstance(draw(address, request)[-1], RawResult)
    except ServerError as error:  # nginx still knew the server that is gone
        refusals.append(f"{error} {error.__cause__}")
        return False


def is_ready(address: str) -> bool:
    client = TritonClient(address)
    try:
        return client.model_ready("denoiser")
    except ServerError:
        return False
    finally:
        client.close()

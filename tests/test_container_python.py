"""Python inside the image, as the engine builder is run: its streams, status and end are this process's."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import docker
import pytest

from studio.server.container import image, toolbox
from tests.test_container import IMAGE, engine

__all__ = ["engine"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture
def prefix(engine: docker.DockerClient, tmp_path: Path) -> list[str]:
    tmp_path.chmod(0o777)
    return toolbox.prefix(image.ensure(engine, IMAGE, lambda *_: None).id, tmp_path)


def left(engine: docker.DockerClient) -> list[object]:
    return engine.containers.list(all=True, filters={"label": "org.triton-studio.image=python"})


def test_streams_status_and_paths_go_through(
    prefix: list[str], engine: docker.DockerClient, tmp_path: Path
) -> None:
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read()); sys.stderr.write('told'); sys.exit(3)"
    done = subprocess.run(
        [*prefix, "-c", code, tmp_path / "plan"], input=b"given", capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (3, b"told")
    assert (tmp_path / "plan").read_bytes() == b"given"
    assert left(engine) == []


def test_the_builder_s_imports_are_met_inside(prefix: list[str]) -> None:
    done = subprocess.run(
        [*prefix, "-m", "studio.engines.builder", "--help"], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert b"--plan" in done.stdout


def test_nothing_is_left_when_the_studio_is_killed(prefix: list[str], engine: docker.DockerClient) -> None:
    process = subprocess.Popen(
        [*prefix, "-c", "print('up', flush=True); import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    assert len(left(engine)) == 1
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while left(engine):
        assert time.monotonic() < deadline
        time.sleep(0.2)

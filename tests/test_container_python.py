"""Python inside the image, as the engine builder is run: its streams, status and end are this process's."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from studio.server.container import image, toolbox
from studio.server.container.server import sweep
from studio.settings import CHECKOUT
from tests.patience import eventually
from tests.test_container import IMAGE, engine

__all__ = ["engine"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture
def prefix(engine: docker.DockerClient, tmp_path: Path) -> list[str]:
    tmp_path.chmod(0o777)
    return toolbox.prefix(image.ensure(engine, IMAGE, lambda *_: None, gpu=False).id, tmp_path)


def left(engine: docker.DockerClient) -> list[Container]:
    return engine.containers.list(all=True, filters={"name": "triton-studio-python"})


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
    assert eventually(lambda: left(engine) == [])


@pytest.fixture
def ticking(prefix: list[str], engine: docker.DockerClient) -> Iterator[subprocess.Popen[bytes]]:
    """A Python inside that never ends by itself, and counts."""
    code = "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.05)"
    process = subprocess.Popen(
        [*prefix, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"0\n"
    yield process
    process.kill()
    process.communicate()


def state(engine: docker.DockerClient) -> str:
    return "".join(container.status for container in left(engine))


def test_it_stands_still_goes_on_and_ends_as_its_process_is_told(
    ticking: subprocess.Popen[bytes], engine: docker.DockerClient
) -> None:
    ticking.send_signal(signal.SIGTSTP)
    assert eventually(lambda: state(engine) == "paused")
    ticking.send_signal(signal.SIGCONT)
    assert eventually(lambda: state(engine) == "running")
    ticking.terminate()
    assert ticking.wait(20) != 0
    assert left(engine) == []


def test_one_killed_while_it_stood_still_is_removed_by_the_next_start(
    ticking: subprocess.Popen[bytes], engine: docker.DockerClient, tmp_path: Path
) -> None:
    ticking.send_signal(signal.SIGTSTP)
    assert eventually(lambda: state(engine) == "paused")
    ticking.kill()
    ticking.wait()
    sweep(tmp_path, owner=str(CHECKOUT))
    assert eventually(lambda: left(engine) == [])

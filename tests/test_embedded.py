"""The embedded server: starts fast, listens in private, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from studio.client import TritonClient
from studio.errors import ServerError, ServerStartError
from studio.report import silent
from studio.server import leftovers
from studio.server.embedded import Embedded
from studio.server.log import clean, last_words, reason
from studio.server.repository import Repository
from tests.conftest import STAND_IN
from tests.patience import eventually
from triton_models.diffusion.manifest import Engine, EngineSet

pytestmark = pytest.mark.server


@pytest.fixture
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder in which only this test's servers live."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def _pids_of(folder: str) -> set[int]:
    """The processes that carry a server's mark."""
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{leftovers.MARK}={folder}".encode() in environment.read_bytes():
                found.add(int(environment.parent.name))
        except OSError:
            continue
    return found


def _segments_of(folder: str) -> list[Path]:
    return list(leftovers.SHARED_MEMORY.glob(f"{folder}*"))


def _run_folder(address: str) -> Path:
    return Path(address.removeprefix("unix:")).parent


def test_start_serves_every_model_and_stop_leaves_nothing(stand_in: Repository, tmp_path: Path) -> None:
    server = Embedded(stand_in, tmp_path / "logs")
    told: list[tuple[str, float | None]] = []
    endpoint = server.start(lambda message, fraction: told.append((message, fraction)))
    folder = _run_folder(endpoint.address)
    client = TritonClient(endpoint.address)
    assert client.models() == {"denoiser": "READY", "pipeline_text_to_image_stream": "READY"}
    assert client.ready()
    assert not server.wait(0)
    assert told[-1] == ("Loading models: 2 of 2", 1.0)
    assert len(_pids_of(folder.name)) >= 4  # the keeper, Triton, the models
    assert _segments_of(folder.name)
    client.close()

    server.stop()

    assert server.wait(0)
    assert not _pids_of(folder.name)
    assert not _segments_of(folder.name)
    assert not folder.exists()
    assert any("Started GRPCInferenceService" in line for line in server.recent_log())
    assert "Started GRPCInferenceService" in (tmp_path / "logs" / "triton.log").read_text()
    server.stop()


@pytest.fixture(scope="module")
def running(embedded_platform: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a server that was started with secrets in the environment."""
    here = tmp_path_factory.mktemp("running")
    server = Embedded(Repository(here, {}, here, sources=STAND_IN), here / "logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDIO_PASSWORD", "hush-hush")
        patch.setenv("HF_TOKEN", "hush-hush")
        address = server.start(silent).address
    yield _run_folder(address)
    server.stop()


def test_only_this_user_can_reach_it(running: Path) -> None:
    assert stat.S_IMODE(running.stat().st_mode) == 0o700
    # The kernel's table can miss a line while others come and go.
    assert eventually(lambda: len(_listening(_pids_of(running.name))) == 1, 10), "metrics, and nothing else"
    assert all(address.startswith("0100007F:") for address in _listening(_pids_of(running.name)))


def _listening(pids: set[int]) -> list[str]:
    """Where these processes accept TCP connections, as in /proc/net/tcp: 0100007F is 127.0.0.1."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                sockets.add(os.readlink(descriptor))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = fields = line.split()
            if state == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.append(local)
    return found


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(running: Path) -> None:
    groups = {os.getpgid(pid) for pid in _pids_of(running.name)}
    assert groups
    assert os.getpgrp() not in groups


def test_secrets_stay_out_of_the_server(running: Path) -> None:
    pids = _pids_of(running.name)
    assert pids
    assert not [pid for pid in pids if b"hush-hush" in Path(f"/proc/{pid}/environ").read_bytes()]


def test_models_see_their_engines(stand_in: Repository, tmp_path: Path) -> None:
    engine = Engine("onnxruntime", "denoiser.onnx", "fp32", batch=(1, 8))
    stand_in.engines = {"denoiser": (engine,)}
    stand_in.write(tmp_path / "models")
    described = EngineSet.load(tmp_path / "models" / "denoiser" / "1")
    assert described.engines == [engine]
    assert described.model_folder == str(stand_in.model_folder)
    assert described.threads == 1
    other = Engine("tensorrt", "x.plan", "fp16")
    assert stand_in.replace("denoiser", [other], tmp_path / "models") == 2
    assert EngineSet.load(tmp_path / "models" / "denoiser" / "2").engines == [other]
    assert (tmp_path / "models" / "denoiser" / "2" / "model.py").exists()
    stand_in.write(tmp_path / "again")
    assert EngineSet.load(tmp_path / "again" / "denoiser" / "1").engines == [other]


def test_a_version_that_cannot_be_written_changes_nothing(stand_in: Repository, tmp_path: Path) -> None:
    stand_in.write(tmp_path / "models")
    shutil.rmtree(tmp_path / "models" / "denoiser")
    with pytest.raises(ServerError, match="could not be put before the server"):
        stand_in.replace("denoiser", [Engine("tensorrt", "x.plan", "fp16")], tmp_path / "models")
    assert not stand_in.engines


def test_a_model_that_does_not_load_is_named_with_its_reason(
    stand_in: Repository, tmp_path: Path, own_temp: Path
) -> None:
    stand_in.engines = {"denoiser": (Engine("onnxruntime", "broken", "fp32"),)}
    server = Embedded(stand_in, tmp_path / "logs")
    with pytest.raises(ServerStartError, match=r"model denoiser .* the engine is broken") as caught:
        server.start(silent)
    assert "Traceback" not in str(caught.value)
    assert str(tmp_path / "logs" / "triton.log") in str(caught.value)
    assert not list(own_temp.iterdir())


def test_a_taken_port_is_replaced(
    stand_in: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with socket.create_server(("127.0.0.1", 0)) as other:
            ports = iter([taken.getsockname()[1], other.getsockname()[1]])
        server = Embedded(stand_in, tmp_path / "logs", choose_port=lambda: next(ports))
        try:
            assert TritonClient(server.start(silent).address).ready()
        finally:
            server.stop()


def test_two_servers_live_side_by_side(stand_in: Repository, tmp_path: Path) -> None:
    servers = [Embedded(stand_in, tmp_path / name) for name in ("one", "two")]
    try:
        addresses = [server.start(silent).address for server in servers]
        assert len(set(addresses)) == 2
        assert all(TritonClient(address).ready() for address in addresses)
        servers[0].stop()
        assert TritonClient(addresses[1]).ready()
    finally:
        for server in servers:
            server.stop()


def test_a_full_temporary_folder_is_a_sentence(
    stand_in: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(full))
        with pytest.raises(ServerStartError, match=r"No space left .*TMPDIR"):
            Embedded(stand_in, tmp_path / "logs").start(silent)
        assert not list(full.iterdir())
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_a_log_that_cannot_be_written_is_no_reason_to_stop(stand_in: Repository, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    server = Embedded(stand_in, tmp_path / "logs")
    try:
        server.start(silent)
        assert any("successfully loaded" in line for line in server.recent_log())
    finally:
        server.stop()


LAUNCHER = """
import sys, time
from pathlib import Path
from studio.server.embedded import Embedded
from studio.server.repository import Repository
here, sources = Path(sys.argv[1]), Path(sys.argv[2])
server = Embedded(Repository(here, {}, here, sources=sources), here / "logs")
print(server.start(lambda *_: None).address, flush=True)
time.sleep(600)
"""


def _launch(stand_in: Repository, here: Path) -> tuple[subprocess.Popen[str], str]:
    """A studio of its own, and the name of its server's folder."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(here), str(stand_in.sources)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert launcher.stdout is not None
    return launcher, _run_folder(launcher.stdout.readline().strip()).name


def test_nothing_outlives_a_killed_studio(stand_in: Repository, tmp_path: Path, own_temp: Path) -> None:
    launcher, folder = _launch(stand_in, tmp_path)
    assert len(_pids_of(folder)) >= 4
    launcher.kill()
    launcher.wait()
    assert eventually(lambda: not _pids_of(folder), 10)
    assert not _segments_of(folder)
    assert not list(own_temp.iterdir())


def test_the_next_start_sweeps_what_even_the_keeper_could_not(
    stand_in: Repository, tmp_path: Path, own_temp: Path
) -> None:
    launcher, folder = _launch(stand_in, tmp_path)
    alive, living = _launch(stand_in, tmp_path)
    try:
        for pid in _pids_of(folder):
            if "keeper.py" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        launcher.kill()
        launcher.wait()
        assert eventually(lambda: not _pids_of(folder), 10), "the server dies with its keeper"
        assert (own_temp / folder).exists()
        (leftovers.SHARED_MEMORY / f"{folder}-orphan").touch()
        orphan = subprocess.Popen(["sleep", "600"], env={leftovers.MARK: folder})
        assert eventually(lambda: orphan.pid in _pids_of(folder), 10)  # a starting process has no environment

        # A dying process lets go of its lock a moment after it is seen no more.
        assert eventually(lambda: leftovers.sweep() or orphan.poll() is not None, 10)
        assert orphan.wait() == -signal.SIGKILL
        assert not _segments_of(folder)
        assert not (own_temp / folder).exists()
        assert len(_pids_of(living)) >= 4
        assert (own_temp / living).exists()
    finally:
        alive.kill()
        alive.wait()
    assert eventually(lambda: not _pids_of(living), 10)


def test_reasons_are_read_off_the_log() -> None:
    lines = [
        'E1120 19:28:16.753061 115 server.cc:241] "CudaDriverHelper has not been initialized."',
        "E1120 19:28:16.8 115 model.cc:642] \"failed to load 'x' version 1: Internal: ValueError: no\"",
    ]
    assert reason(lines) == "The model x could not be loaded: ValueError: no."
    assert reason(lines[:1]) == ""
    assert last_words(["keeper: The process of the model denoiser died (signal 9)."]).endswith("(signal 9).")
    assert (
        clean("Unavailable - Socket '127.0.0.1:1' already in use ") == "Socket '127.0.0.1:1' already in use."
    )

"""The supervisor: whatever dies comes back, and engines are swapped under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from studio.client import RawResult, TritonClient
from studio.errors import ServerError, ServerLostError, ServerStartError
from studio.report import Report
from studio.request import ImageRequest
from studio.server.base import Endpoint
from studio.server.embedded import Embedded
from studio.server.repository import Repository
from studio.server.supervise import Supervisor
from tests.patience import eventually
from tests.processes import kill, pids
from triton_models.diffusion.manifest import Engine


class FakeServer:
    """A server that starts as often as ``starts`` says and ends when told."""

    description = "fake"

    def __init__(self, failures: Sequence[bool] = ()) -> None:
        self.repository = Repository(Path("model"), {}, Path("cache"))
        self._failures = list(failures)
        self._ended = threading.Event()
        self._ended.set()
        self.starts = 0

    def start(self, report: Report) -> Endpoint:
        self.starts += 1
        if self._failures and self._failures.pop(0):
            raise ServerStartError("It did not start.")
        self._ended.clear()
        return Endpoint(f"fake:{self.starts}")

    def stop(self) -> None:
        self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._ended.wait(timeout)

    def replace(self, component: str, engines: Sequence[Engine]) -> None:
        raise NotImplementedError

    def recent_log(self) -> list[str]:
        return ["keeper: The process of the model denoiser died (signal 9)."]

    def die(self) -> None:
        self._ended.set()


def test_a_dead_server_is_started_again_and_that_is_told() -> None:
    told: list[str] = []
    server = FakeServer()
    with Supervisor(server, told.append) as supervisor:
        supervisor.start()
        assert supervisor.endpoint.address == "fake:1"
        server.die()
        assert eventually(lambda: supervisor.endpoint.address == "fake:2", 15)
        assert supervisor.ready()
        assert told == [
            "The server ended unexpectedly; starting it again."
            " The process of the model denoiser died (signal 9).",
            "The server is back.",
        ]
    assert not supervisor.ready()
    assert server.starts == 2


def test_many_who_ask_at_once_cause_one_start() -> None:
    server = FakeServer()
    with Supervisor(server, lambda _: None) as supervisor:
        supervisor.start()
        server.die()
        askers = [threading.Thread(target=supervisor.restore) for _ in range(8)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert supervisor.ready()
        assert server.starts == 2


def test_a_start_that_fails_is_tried_again() -> None:
    told: list[str] = []
    server = FakeServer([False, True, False])
    with Supervisor(server, told.append) as supervisor:
        supervisor.start()
        server.die()
        assert eventually(supervisor.ready, 15)
    assert server.starts == 3
    assert "It did not start." in told


def test_the_first_start_fails_aloud() -> None:
    with Supervisor(FakeServer([True])) as supervisor, pytest.raises(ServerStartError):
        supervisor.start()


def test_nothing_is_restored_after_stop() -> None:
    server = FakeServer()
    supervisor = Supervisor(server)
    supervisor.start()
    supervisor.stop()
    supervisor.stop()
    with pytest.raises(ServerLostError):
        supervisor.restore()
    assert server.starts == 1


@pytest.mark.server
def test_stop_ends_a_start_that_is_under_way(stand_in: Repository, tmp_path: Path) -> None:
    supervisor = Supervisor(Embedded(stand_in, tmp_path / "logs"))
    errors: list[Exception] = []

    def start() -> None:
        try:
            supervisor.start()
        except ServerError as error:
            errors.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    time.sleep(0.15)
    supervisor.stop()
    starting.join(timeout=20)
    assert not starting.is_alive()
    assert not supervisor.ready()


def _draw(supervisor: Supervisor, **fields: object) -> RawResult:
    client = TritonClient(supervisor.endpoint.address)
    request = ImageRequest(**{"prompt": "x", "steps": 2, "seed": 1} | fields)  # type: ignore[arg-type]
    try:
        *_, last = client.generate(request, threading.Event())
    finally:
        client.close()
    assert isinstance(last, RawResult)
    return last


@pytest.mark.server
@pytest.mark.parametrize("victim", ["denoiser/1/model.py", "image_stream/1/model.py", "bin/tritonserver\0"])
def test_kill_9_under_a_request_loses_it_at_once_and_comes_back(
    stand_in_server: Supervisor, victim: str
) -> None:
    supervisor = stand_in_server
    killer = threading.Timer(0.3, kill, (supervisor.endpoint.address, victim))
    killer.start()
    with pytest.raises(ServerLostError):
        _draw(supervisor, steps=150)
    supervisor.restore()
    assert _draw(supervisor).seeds == (1,)


@pytest.mark.server
def test_a_model_that_crashes_is_lost_and_comes_back(stand_in_server: Supervisor) -> None:
    with pytest.raises(ServerLostError):
        _draw(stand_in_server, prompt="crash", steps=5)
    stand_in_server.restore()
    assert _draw(stand_in_server).seeds == (1,)


@pytest.mark.server
def test_a_server_that_dies_idle_comes_back_by_itself(stand_in_server: Supervisor) -> None:
    first = stand_in_server.endpoint
    kill(first.address, "denoiser/1/model.py")
    assert eventually(lambda: stand_in_server.endpoint != first and stand_in_server.ready(), 15)
    assert _draw(stand_in_server).seeds == (1,)


@pytest.mark.server
def test_engines_are_swapped_under_load_and_a_bad_one_changes_nothing(stand_in_server: Supervisor) -> None:
    supervisor = stand_in_server
    first = supervisor.endpoint
    good = (Engine("tensorrt", "good.plan", "fp16"),)
    stop, errors = threading.Event(), []

    def keep_drawing() -> None:
        while not stop.is_set():
            try:
                _draw(supervisor)
            except Exception as error:
                errors.append(error)

    artist = threading.Thread(target=keep_drawing)
    artist.start()
    try:
        supervisor.swap("denoiser", good)
        assert pids(first.address, "denoiser/2/model.py")
        with pytest.raises(ServerError, match="the engine is broken"):
            supervisor.swap("denoiser", [Engine("tensorrt", "broken", "fp16")])
        time.sleep(1.5)  # the old version's process ends, and nobody takes that for a death
    finally:
        stop.set()
        artist.join()
    assert not errors
    assert supervisor.endpoint == first
    assert supervisor.server.repository.engines["denoiser"] == good
    assert _draw(supervisor).seeds == (1,)

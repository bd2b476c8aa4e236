"""The connection to Triton: steps as they come, cancel, and Triton's errors as ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from studio.client import RawResult, TritonClient
from studio.errors import Cancelled, RequestError, ServerError, ServerLostError
from studio.report import silent
from studio.request import ImageRequest, Progress
from studio.server.embedded import Embedded
from studio.server.repository import Repository
from tests.conftest import STAND_IN

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def client(embedded_platform: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonClient]:
    """A connection to a server over the stand-in repository that all these tests share."""
    here = tmp_path_factory.mktemp("client")
    server = Embedded(Repository(here, {}, here, sources=STAND_IN), here / "logs")
    client = TritonClient(server.start(silent).address)
    yield client
    client.close()
    server.stop()


def _generate(client: TritonClient, **fields: object) -> list[Progress | RawResult]:
    request = ImageRequest(**{"prompt": "a red house", "steps": 4, "seed": 7} | fields)  # type: ignore[arg-type]
    return list(client.generate(request, threading.Event()))


def test_steps_arrive_one_by_one_and_the_picture_last(client: TritonClient) -> None:
    *steps, result = _generate(client)
    assert [(p.stage, p.step, p.steps) for p in steps if isinstance(p, Progress)] == [
        ("text_encode", 0, 4),
        *(("step", step, 4) for step in range(1, 5)),
        ("decode", 4, 4),
    ]
    assert isinstance(result, RawResult)
    assert result.images.shape == (1, 32, 32, 3)
    assert result.images.dtype == np.uint8
    assert np.all(result.images == 7)
    assert result.seeds == (7,)
    assert [span.stage for span in result.spans] == ["decode"]
    assert result.engine == "stand-in"
    assert result.warnings == ("A warning.",)


def test_steps_stream_rather_than_come_at_once(client: TritonClient) -> None:
    arrivals = []
    for _ in client.generate(ImageRequest("x", steps=10, seed=1), threading.Event()):
        arrivals.append(time.monotonic())
    gaps = np.diff(arrivals)[1:10]
    assert np.median(gaps) > 0.02  # a step takes 0.05 s


def test_cancel_stops_the_model_and_the_next_request_runs(client: TritonClient) -> None:
    cancel = threading.Event()
    steps = []

    def watch() -> None:
        for progress in client.generate(ImageRequest("x", steps=40, seed=1), cancel):
            steps.append(progress)
            if len(steps) == 3:
                cancel.set()

    with pytest.raises(Cancelled):
        watch()
    assert len(steps) == 3
    assert isinstance(_generate(client)[-1], RawResult)


def test_an_abandoned_request_is_cancelled(client: TritonClient) -> None:
    stream = client.generate(ImageRequest("x", steps=40, seed=1), threading.Event())
    next(stream), next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert isinstance(_generate(client)[-1], RawResult)


def test_a_refusal_keeps_the_servers_words(client: TritonClient) -> None:
    with pytest.raises(RequestError) as caught:
        _generate(client, prompt="refuse")
    assert str(caught.value) == "seed must not be refused."


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", 2**63), ("num_images", 2**31), ("steps", "many"), ("width", 1.5e300)],
)
def test_values_that_no_tensor_holds_are_refused_by_name(
    client: TritonClient, field: str, value: object
) -> None:
    name = {"steps": "num_inference_steps"}.get(field, field)
    with pytest.raises(RequestError, match=f"^{name} is .* it must be a .*number between"):
        _generate(client, **{field: value})


def test_a_mistake_in_a_model_is_the_servers_and_short(client: TritonClient) -> None:
    with pytest.raises(ServerError, match="a mistake in the model") as caught:
        _generate(client, prompt="raise")
    assert not isinstance(caught.value, ServerLostError)
    assert "Traceback" not in str(caught.value)
    assert "model.py" not in str(caught.value)


def test_a_model_that_is_not_there_is_the_servers_fault(client: TritonClient) -> None:
    with pytest.raises(ServerError):
        _generate(client, image=np.zeros((8, 8, 3), np.uint8))


def test_a_server_that_is_not_there_is_lost() -> None:
    client = TritonClient("127.0.0.1:9")
    assert not client.ready()
    assert not client.model_ready("denoiser")
    with pytest.raises(ServerLostError):
        _generate(client)
    with pytest.raises(ServerLostError):
        client.models()


def test_a_proxy_in_the_environment_is_not_used(
    embedded_platform: None, client: TritonClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fresh = TritonClient(client.address)
    assert fresh.ready()
    assert isinstance(_generate(fresh)[-1], RawResult)
    fresh.close()


def test_models_are_listed_unloaded_and_loaded(client: TritonClient) -> None:
    assert client.models() == {"denoiser": "READY", "pipeline_text_to_image_stream": "READY"}
    client.unload_model("denoiser")
    assert not client.model_ready("denoiser")
    with pytest.raises(ServerError):
        _generate(client)
    client.load_model("denoiser")
    assert client.model_ready("denoiser")
    assert isinstance(_generate(client)[-1], RawResult)
    with pytest.raises(ServerError):
        client.load_model("nothing-of-that-name")


def test_a_stream_serves_one_request_after_another(client: TritonClient) -> None:
    before = threading.active_count()
    for _ in range(3):
        assert isinstance(_generate(client, steps=1)[-1], RawResult)
        assert threading.active_count() <= before + 1


def test_a_stream_that_died_while_idle_is_not_used(embedded_platform: None, tmp_path: Path) -> None:
    server = Embedded(Repository(tmp_path, {}, tmp_path, sources=STAND_IN), tmp_path / "logs")
    client = TritonClient(server.start(silent).address)
    assert isinstance(_generate(client)[-1], RawResult)
    server.stop()
    with pytest.raises(ServerLostError):
        _generate(client)
    client.close()


def test_several_requests_at_once(client: TritonClient) -> None:
    results: dict[int, RawResult] = {}

    def ask(seed: int) -> None:
        last = _generate(client, seed=seed, steps=2)[-1]
        assert isinstance(last, RawResult)
        results[seed] = last

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seed: result.seeds for seed, result in results.items()} == {s: (s,) for s in range(50)}
    assert all(np.all(result.images == seed) for seed, result in results.items())

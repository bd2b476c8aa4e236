"""Several GPUs: every request goes where it will be done first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from studio.dispatch import Dispatcher, Lane
from studio.errors import Cancelled
from studio.gpu import Gpu
from studio.request import ImageRequest


def gpu(driver: str = "580.159.03", name: str = "NVIDIA RTX 4090") -> Gpu:
    return Gpu(0, name, "GPU-1", (8, 9), 24 << 30, 23 << 30, driver, (13, 0))


class FakeStudio:
    """Stands where a Studio stands and takes as long as it is told."""

    model = history = None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.done = 0

    def resolve(self, request: ImageRequest) -> ImageRequest:
        return request

    def generate(self, request: ImageRequest, cancel: Any, *, asked_at: float) -> Iterator[Any]:
        time.sleep(self.seconds)
        self.done += 1
        yield request


REQUEST = ImageRequest("a boat", width=512, height=512, steps=20)


def ask(dispatcher: Dispatcher, count: int) -> None:
    threads = [threading.Thread(target=lambda: list(dispatcher.generate(REQUEST))) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)


def test_who_waits_for_a_gpu_can_be_cancelled() -> None:
    lane = Lane("one", FakeStudio(0.0))  # type: ignore[arg-type]
    cancel = threading.Event()
    cancel.set()
    with lane.turn, pytest.raises(Cancelled):
        list(Dispatcher([lane]).generate(REQUEST, cancel))
    assert lane.promised == 0


def test_equal_gpus_share_the_work() -> None:
    studios = [FakeStudio(0.05), FakeStudio(0.05)]
    ask(Dispatcher([Lane(str(index), studio) for index, studio in enumerate(studios)]), 8)  # type: ignore[arg-type]
    assert min(studio.done for studio in studios) >= 3  # a busy machine measures one a little slower


def test_the_faster_gpu_gets_more() -> None:
    fast, slow = FakeStudio(0.02), FakeStudio(0.2)
    dispatcher = Dispatcher([Lane("slow", slow), Lane("fast", fast)])  # type: ignore[arg-type]
    ask(dispatcher, 2)  # both are measured
    ask(dispatcher, 10)
    assert fast.done > 2 * slow.done


def test_a_size_goes_to_the_gpu_that_has_its_engine() -> None:
    without, having = FakeStudio(0.01), FakeStudio(0.01)
    lanes = [Lane("without", without, lambda *_: False), Lane("having", having)]  # type: ignore[arg-type]
    dispatcher = Dispatcher(lanes)
    for _ in range(3):
        list(dispatcher.generate(REQUEST))
    assert (having.done, without.done) == (3, 0)


def test_a_failed_request_is_no_longer_expected() -> None:
    class Failing(FakeStudio):
        def generate(self, request: ImageRequest, cancel: Any, *, asked_at: float) -> Iterator[Any]:
            raise RuntimeError
            yield

    lane = Lane("one", Failing(0))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        list(Dispatcher([lane]).generate(REQUEST))
    assert lane.promised == 0
    assert not lane.turn.locked()

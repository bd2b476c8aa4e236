"""Several GPUs, one studio: each request goes where it will be done first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from studio.client import CANCEL_CHECK_SECONDS
from studio.errors import Cancelled
from studio.generate import Studio
from studio.request import ImageRequest, ImageResult, Progress

# A size without an engine runs on the slower runtime: about this much slower until it was measured.
WITHOUT_ENGINE = 4.0
# How much the newest picture counts in a GPU's measured pace.
NEWEST_WEIGHT = 0.5


@dataclass(eq=False)
class Lane:
    """One server on one GPU. ``has_engine`` says whether (width, height, pictures) has an engine there."""

    name: str
    studio: Studio
    has_engine: Callable[[int, int, int], bool] = lambda width, height, num_images: True
    pace: float = 0.0  # seconds for a step of a megapixel; 0 until the first picture
    promised: float = 0.0  # work in seconds that was given to it and is not done
    turn: threading.Lock = field(default_factory=threading.Lock)


class Dispatcher:
    """Stands where a Studio stands, over one Studio per GPU. Thread safe."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = tuple(lanes)
        self.model = lanes[0].studio.model
        self.history = lanes[0].studio.history
        self._lock = threading.Lock()

    def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with seed and size filled in; the same on every lane."""
        return self.lanes[0].studio.resolve(request)

    def generate(
        self, request: ImageRequest, cancel: threading.Event | None = None, *, asked_at: float | None = None
    ) -> Iterator[Progress | ImageResult]:
        """As Studio.generate, on the lane with the shortest expected wait; waits there for its turn."""
        asked_at = time.perf_counter() if asked_at is None else asked_at
        request = self.resolve(request)
        lane, promise = self._choose(request)
        try:
            with _turn(lane, cancel or threading.Event()):
                began = time.perf_counter()
                yield from lane.studio.generate(request, cancel, asked_at=asked_at)
                self._learn(lane, request, time.perf_counter() - began)
        finally:
            with self._lock:
                lane.promised -= promise

    def close(self) -> None:
        """Give every lane's connection back."""
        for lane in self.lanes:
            lane.studio.close()

    def _choose(self, request: ImageRequest) -> tuple[Lane, float]:
        """The lane that would be done first, and the work it was promised, in seconds."""
        with self._lock:
            known = [lane.pace for lane in self.lanes if lane.pace]
            typical = sum(known) / len(known) if known else 1.0
            costs = {lane: self._cost(lane, request, typical) for lane in self.lanes}
            lane = min(self.lanes, key=lambda lane: lane.promised + costs[lane])
            lane.promised += costs[lane]
            return lane, costs[lane]

    def _cost(self, lane: Lane, request: ImageRequest, typical: float) -> float:
        slower = 1.0 if lane.has_engine(*_size(request)) else WITHOUT_ENGINE
        return (lane.pace or typical) * slower * _work(request)

    def _learn(self, lane: Lane, request: ImageRequest, seconds: float) -> None:
        if not lane.has_engine(*_size(request)):
            return
        measured = seconds / _work(request)
        with self._lock:
            lane.pace = measured if not lane.pace else lane.pace + NEWEST_WEIGHT * (measured - lane.pace)


@contextmanager
def _turn(lane: Lane, cancel: threading.Event) -> Iterator[None]:
    """Wait for the lane and hold it. Raises Cancelled."""
    while not lane.turn.acquire(timeout=CANCEL_CHECK_SECONDS):
        if cancel.is_set():
            raise Cancelled("Cancelled.")
    try:
        yield
    finally:
        lane.turn.release()


def _size(request: ImageRequest) -> tuple[int, int, int]:
    assert request.width is not None  # resolve() filled both in
    assert request.height is not None
    return request.width, request.height, request.num_images


def _work(request: ImageRequest) -> float:
    """What a request costs, in steps of a megapixel."""
    width, height, num_images = _size(request)
    steps = request.steps if request.image is None else max(1.0, request.steps * request.strength)
    return steps * num_images * width * height / 1e6

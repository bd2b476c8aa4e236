"""The line: request → client → image → history, telling how far it is and ending in the pictures."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from studio.client import CANCEL_CHECK_SECONDS, RawResult, TritonClient
from studio.errors import Cancelled, SaveError, ServerLostError
from studio.history import History
from studio.image import fit
from studio.request import ImageRequest, ImageResult, Pixels, Progress, Span
from studio.server.base import Endpoint
from triton_models.diffusion import fields
from triton_models.diffusion.manifest import ModelInfo

logger = logging.getLogger(__name__)

# A1111 draws its seeds from 32 bits too, so a seed can be carried between the two.
SEED_BITS = 32


class Client(Protocol):
    """What the line needs of a connection to the server."""

    def generate(self, request: ImageRequest, cancel: threading.Event) -> Iterator[Progress | RawResult]:
        """Stream the steps, then the pictures."""

    def close(self) -> None:
        """Give the connection back."""


class Server(Protocol):
    """What the line needs of the server's supervisor."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens now."""

    def restore(self) -> None:
        """Return once the server and its models serve again; raises ServerError when they do not."""


class Studio:
    """Draws requests on one server and keeps what comes out. Calls may come from several threads."""

    def __init__(
        self,
        server: Server,
        model: ModelInfo,
        history: History,
        connect: Callable[[str], Client] = TritonClient,
    ) -> None:
        self.model = model
        self.history = history
        self._server = server
        self._connect = connect
        self._client: Client | None = None
        self._address = ""
        self._drawing = 0
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether a picture is being drawn."""
        return self._drawing > 0

    def generate(
        self, request: ImageRequest, cancel: threading.Event | None = None, *, asked_at: float | None = None
    ) -> Iterator[Progress | ImageResult]:
        """Yield every step's Progress, then the ImageResult.

        ``asked_at`` (``time.perf_counter()``) is when the artist pressed Generate; the time until now
        counts as queue. Setting ``cancel`` ends it within one step with Cancelled; RequestError names a
        field that cannot be drawn; ServerError means that the server is gone and could not be brought back.
        """
        started = time.perf_counter()
        asked_at = started if asked_at is None else asked_at
        request = self.resolve(request)
        with self._counted():
            raw, sent, arrived = yield from self._draw(request, cancel or threading.Event())
        yield Progress("save", request.steps, request.steps)
        spans = [
            Span("queue", 0.0, started - asked_at),
            *([Span("restart", started - asked_at, sent - started)] if sent - started > 1.0 else []),
            *_seen_from_here(raw.spans, sent - asked_at, arrived - asked_at),
        ]
        result = ImageResult(
            request, raw.images, raw.seeds, tuple(spans), raw.engine, self.model.name, warnings=raw.warnings
        )
        result = self._keep(result, asked_at)
        logger.info("%d picture(s) in %.2f s on %s", len(raw.seeds), result.seconds, raw.engine)
        yield result

    def resolve(self, request: ImageRequest) -> ImageRequest:
        """The request with seed and size filled in and the start image fitted to that size."""
        width = request.width or self.model.default_width
        height = request.height or self.model.default_height
        return replace(
            request,
            prompt=_encodable(request.prompt),
            negative_prompt=_encodable(request.negative_prompt),
            seed=random.getrandbits(SEED_BITS) if request.seed == -1 else request.seed,
            width=width,
            height=height,
            image=None if request.image is None else _fitted(request.image, width, height),
        )

    def close(self) -> None:
        """Give the connection back; the server is its supervisor's to stop."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._drawing += 1
        try:
            yield
        finally:
            with self._lock:
                self._drawing -= 1

    def _draw(
        self, request: ImageRequest, cancel: threading.Event
    ) -> Generator[Progress, None, tuple[RawResult, float, float]]:
        """The server's answer, when it was asked and when it came. A server that dies gets one more try."""
        try:
            return (yield from self._stream(request, cancel))
        except ServerLostError as lost:
            logger.warning("The server was lost under a request: %s", lost)
        yield Progress("restart")
        self._restore(cancel)
        self.close()
        return (yield from self._stream(request, cancel))

    def _restore(self, cancel: threading.Event) -> None:
        """Wait until the server is back, but not longer than for ``cancel``: it comes back all the same."""
        restored: Future[None] = Future()
        # A daemon, unlike an executor's threads: a program that ends does not wait for it.
        threading.Thread(target=_settle, args=(restored, self._server.restore), daemon=True).start()
        while not cancel.is_set() and wait([restored], CANCEL_CHECK_SECONDS).not_done:
            continue
        if cancel.is_set():
            raise Cancelled("Cancelled.")
        restored.result()

    def _stream(
        self, request: ImageRequest, cancel: threading.Event
    ) -> Generator[Progress, None, tuple[RawResult, float, float]]:
        pace = _Pace()
        sent = time.perf_counter()
        for item in self._connected().generate(request, cancel):
            if isinstance(item, RawResult):
                return item, sent, time.perf_counter()
            yield pace.mark(item)
        raise ServerLostError(
            "The server ended its answer without a picture.",
            hint="Press Generate again; if it stays, restart the studio.",
        )

    def _connected(self) -> Client:
        address = self._server.endpoint.address
        with self._lock:
            if self._client is None or self._address != address:  # started again, it listens elsewhere
                self._client, self._address = self._connect(address), address
            return self._client

    def _keep(self, result: ImageResult, asked_at: float) -> ImageResult:
        """Save every picture at once; what cannot be saved is said and still shown."""
        began = time.perf_counter()
        files: list[Path] = []
        warnings = list(result.warnings)
        for index in range(len(result.seeds)):
            try:
                files.append(self.history.keep(result, index))
            except SaveError as error:
                warnings.append(str(error))
        ended = time.perf_counter()
        spans = (*result.spans, Span("save", began - asked_at, ended - began))
        return replace(result, spans=spans, files=tuple(files), warnings=tuple(dict.fromkeys(warnings)))


def _settle(future: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:  # for whoever waits
        future.set_exception(error)
    else:
        future.set_result(None)


class _Pace:
    """Steps per second and the time left, from when the steps arrived."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def mark(self, progress: Progress) -> Progress:
        if progress.stage != "step":
            return progress
        now = time.perf_counter()
        if self._first is None:
            self._first = (now, progress.step)
        since, first_step = self._first
        if progress.step == first_step or now == since:
            return progress
        rate = (progress.step - first_step) / (now - since)
        return replace(progress, steps_per_second=rate, eta_seconds=(progress.steps - progress.step) / rate)


def _seen_from_here(spans: Sequence[Span], sent: float, arrived: float) -> list[Span]:
    """The server's spans on the artist's clock; what the round trip took beyond them is transfer."""
    worked = max((span.start + span.seconds for span in spans), default=0.0)
    moved = [replace(span, start=span.start + sent) for span in spans]
    return [*moved, Span("transfer", sent + worked, max(0.0, arrived - sent - worked))]


def _fitted(image: Pixels, width: int, height: int) -> Pixels:
    # A size that cannot be drawn is the server's to refuse; here it must only not be allocated.
    low, high = int(fields.WIDTH.low or 0), int(fields.WIDTH.high or 0)
    return fit(image, min(max(width, low), high), min(max(height, low), high))


def _encodable(text: str) -> str:
    # Browsers can send half of a surrogate pair, which no UTF-8 can carry.
    return text.encode("utf-8", "replace").decode("utf-8")

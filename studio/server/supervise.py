"""Keeps a server alive: notices its end at once and starts it again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

from studio.client import TritonClient
from studio.errors import ServerError, ServerLostError, StudioError
from studio.report import Report, silent
from studio.server.base import Endpoint, Server
from studio.server.log import last_words
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

logger = logging.getLogger(__name__)

# A client may see a death a moment before the server's end is known here.
DEATH_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


class Supervisor:
    """Owns a server from start to stop. Calls may come from several threads."""

    def __init__(self, server: Server, tell: Callable[[str], None] = logger.warning) -> None:
        self.server = server
        self.endpoint = Endpoint("")
        self._tell = tell
        self._moved: Callable[[Endpoint], None] = lambda endpoint: None
        self._starts = 0
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, report: Report = silent) -> None:
        """Start the server and keep it alive from now on. Raises ServerStartError."""
        with self._lock:
            self._start(report)
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stop the server for good. May be called twice."""
        self._stopping.set()
        self.server.stop()  # ends a start that is under way, which holds the lock
        with self._lock:
            self.server.stop()
        if self._watcher is not None:
            self._watcher.join()

    def follow(self, moved: Callable[[Endpoint], None]) -> None:
        """Call ``moved`` with where the server listens now, and again whenever it comes back elsewhere."""
        with self._lock:
            self._moved = moved
            moved(self.endpoint)

    @property
    def repository(self) -> Repository:
        """What the server serves now, and at every start."""
        return self.server.repository

    def ready(self) -> bool:
        """Whether the server is up now."""
        return not self.server.wait(0)

    def restore(self) -> None:
        """Return once the server serves again, starting it when it is gone. Raises ServerError."""
        seen = self._starts
        self.server.wait(DEATH_SECONDS)
        with self._lock:
            if self._stopping.is_set():
                raise ServerLostError("The studio is closing.", hint="Start it again to go on.")
            if self._starts != seen or self.ready():
                return
            log = self.server.recent_log()
            logger.warning("The server ended. Its last lines:\n%s", "\n".join(log[-30:]))
            self._tell(f"The server ended unexpectedly; starting it again. {last_words(log)}".rstrip())
            self.server.stop()
            self._start(silent)
            self._tell("The server is back.")

    def swap(self, component: str, engines: Sequence[Engine]) -> None:
        """Serve a component with other engines, without a pause; raises ServerError and changes nothing."""
        with self._lock:
            before = self.server.repository.engines
            self.server.replace(component, engines)
            client = TritonClient(self.endpoint.address)
            try:
                client.load_model(component)
            except ServerError:
                # First for the next start: a server that died of the engine has no folder to write to.
                self.server.repository.engines = before
                with suppress(ServerError):
                    self.server.replace(component, before.get(component, ()))
                raise
            finally:
                client.close()

    def _start(self, report: Report) -> None:
        self.endpoint = self.server.start(report)
        self._starts += 1
        self._moved(self.endpoint)

    def _watch(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            self.server.wait()
            if self._stopping.is_set():
                return
            try:
                self.restore()
                pause = 1.0
            except StudioError as error:
                if self._stopping.is_set():
                    return
                logger.error("%s", error)
                self._tell(str(error))
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

"""What a server's process says: kept in a file, the last lines in memory, and its errors understood."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from logging.handlers import RotatingFileHandler
from pathlib import Path

LINES_KEPT = 400
FILE_BYTES = 2_000_000
FILES_KEPT = 3

# Triton's own line: `E1120 19:28:16.753061 11534 model_lifecycle.cc:642] "failed to load …`
_TRITON_LINE = re.compile(r'^[EWIF]\d{4} [\d:.]+ \d+ [\w.]+:\d+\] "?(?P<text>.*?)"?$')
_FAILED_LOAD = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<why>.*)")
KEEPER = "keeper: "  # what the keeper's own lines begin with
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ServerLog:
    """Follows the output of one server at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._recent: deque[str] = deque(maxlen=LINES_KEPT)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._started = threading.Event()

    def follow(self, stream: AbstractContextManager[Iterable[bytes]]) -> None:
        """Read ``stream`` to its end in a thread of its own."""
        self._recent.clear()
        self._lines = queue.SimpleQueue()
        self._started.clear()
        self._thread = threading.Thread(target=self._read, args=(stream,), name="server log", daemon=True)
        self._thread.start()

    def lines(self, stall_seconds: float) -> Iterator[str]:
        """The lines as they come, until the stream ends or is silent for ``stall_seconds``."""
        try:
            while (line := self._lines.get(timeout=stall_seconds)) is not None:
                yield line
        except queue.Empty:
            return
        finally:
            self._started.set()

    def end(self) -> None:
        """Wait until everything said so far is written."""
        if self._thread is not None:
            self._thread.join(timeout=2)

    def recent(self) -> list[str]:
        """The last lines, the newest last."""
        return list(self._recent)

    def reason(self) -> str:
        """Why the server failed, as a sentence, from its last lines; empty when they do not say."""
        return reason(self.recent())

    def _read(self, stream: AbstractContextManager[Iterable[bytes]]) -> None:
        handler = _QuietHandler(self.path)
        with stream as lines:
            for raw in lines:
                line = _COLOURS.sub("", raw.decode("utf-8", "replace").rstrip())
                self._recent.append(line)
                handler.emit(logging.LogRecord("triton", logging.INFO, "", 0, line, None, None))
                if not self._started.is_set():
                    self._lines.put(line)
        self._lines.put(None)
        handler.close()


class _QuietHandler(RotatingFileHandler):
    """A log that cannot be written is no reason to stop or to print tracebacks."""

    def __init__(self, path: Path) -> None:
        self._broken = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            self._broken = True
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8", delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._broken:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        self._broken = True


def reason(lines: list[str]) -> str:
    """The most telling error among a server's lines, without Triton's prefixes."""
    errors: list[str] = []
    for line in lines:
        match = _TRITON_LINE.match(line)
        text = match["text"] if match else line
        if failed := _FAILED_LOAD.search(text):
            return f"The model {failed['model']} could not be loaded: {clean(failed['why'])}"
        of_triton = match is not None and line.startswith("E") and "CudaDriverHelper" not in text
        if of_triton or re.match(r"(\S*tritonserver: )?error", text):
            errors.append(clean(text))
    return errors[-1] if errors else last_words(lines)


def last_words(lines: list[str]) -> str:
    """How the server ended, as its keeper saw it; empty when it did not say."""
    said = [line.removeprefix(KEEPER) for line in lines if line.startswith(KEEPER)]
    return said[-1] if said else ""


def clean(text: str) -> str:
    """An error of Triton's as one plain sentence: no status names, no stack, a full stop."""
    text = text.partition("\n")[0].strip().strip('"')
    text = re.sub(r"^(?:(?:Internal|Invalid argument|Unavailable|Not found|Unknown):? (?:- )?)+", "", text)
    return text if text.endswith((".", "!", "?")) else f"{text}."

"""What the person who started the studio reads: one line per stage, with what came of it and its time."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

NAME_WIDTH = 12
REPORT_SECONDS = 5.0  # between two lines of the same stage where a line cannot be rewritten


class Terminal:
    """Writes to a stream that may be a terminal, a file, or closed meanwhile. Thread safe."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._lock = threading.Lock()
        self.stages: dict[str, float] = {}  # name → how many seconds it took

    def line(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._write(f"{self._clear()}{text}\n")

    def passing(self, text: str) -> None:
        """A line that the next one replaces; nothing where that is not possible."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            with self._lock:
                self._write(f"{self._clear()}{text[:width]}")

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Show ``name`` while the block runs, and afterwards what the stage says came of it."""
        stage = Stage(self, name)
        yield stage
        self.stages[name] = stage.seconds
        self.line(f"{name:{NAME_WIDTH}} {stage.outcome}  ({stage.seconds:.1f} s)")

    @property
    def live(self) -> bool:
        """Whether a line can be rewritten."""
        return self._live

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal was closed: there is nobody to tell
            pass


class Stage:
    """One stage of the start. ``report`` is a Report; ``outcome`` is what its line says in the end."""

    def __init__(self, terminal: Terminal, name: str) -> None:
        self.outcome = ""
        self._terminal = terminal
        self._name = name
        self._began = time.perf_counter()
        self._told = 0.0

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.perf_counter() - self._began

    def report(self, message: str, fraction: float | None = None) -> None:
        """Tell how far the stage is."""
        text = f"{self._name:{NAME_WIDTH}} {message}" + ("" if fraction is None else f" {fraction:.0%}")
        if self._terminal.live:
            self._terminal.passing(text)
        elif self.seconds - self._told >= REPORT_SECONDS:
            self._told = self.seconds
            self._terminal.line(text)

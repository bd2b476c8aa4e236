"""Where the time of a request goes, measured where it is spent and carried back with the picture."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Timings:
    """Stretches of work. Times are CLOCK_MONOTONIC's, which all processes of a machine share."""

    def __init__(self, arrival: float | None = None) -> None:
        self.arrival = time.monotonic() if arrival is None else arrival
        self.engine = ""  # the denoiser's, such as "tensorrt fp16"
        self.warnings: list[str] = []  # sentences that the user should read
        self._spans: list[dict[str, Any]] = []

    def add(self, stage: str, start: float, end: float) -> None:
        """Note that ``stage`` ran from ``start`` to ``end``."""
        self._spans.append({"stage": stage, "start": start - self.arrival, "seconds": end - start})

    @staticmethod
    def now() -> float:
        """The present on the clock of the spans."""
        return time.monotonic()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long the block takes."""
        start = time.monotonic()
        yield
        self.add(stage, start, time.monotonic())

    def absorb(self, text: str, sent: float) -> None:
        """Take over what another process's ``to_json`` says of work that was ``sent`` to it."""
        said = json.loads(text)
        self.add("queue", sent, said["arrival"])
        for span in said["spans"]:
            start = said["arrival"] + span["start"]
            self.add(span["stage"], start, start + span["seconds"])
        self.engine = said["engine"] or self.engine
        self.warnings += said["warnings"]

    def to_json(self) -> str:
        """Spans in seconds from the arrival, the engine's label, and the warnings."""
        said = {
            "arrival": self.arrival,
            "spans": sorted(self._spans, key=lambda span: float(span["start"])),
            "engine": self.engine,
            "warnings": self.warnings,
        }
        return json.dumps(said, ensure_ascii=False)

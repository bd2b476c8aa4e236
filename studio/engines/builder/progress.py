"""How far a build is: TensorRT's nested phases as one fraction, told as JSON lines.

Standard library only, CPython 3.10: the builder may run under another interpreter than the studio's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TextIO

# The share of a phase that each phase within it takes. TensorRT times kernels on the GPU; TensorRT-RTX has
# no kernels to time and compiles in its last phase (measured on builds of the bundled checkpoint).
_COMMON = {
    "Building engine": {
        "Cloning network graph": 0.01,
        "Preparing graph for optimization": 0.01,
        "Building engine from subgraph": 0.98,
    },
    "Building engine from subgraph": {"Optimizing graph": 0.02, "Computing profile costs": 0.98},
    "Timing tactics": {"Timing graph nodes": 0.9, "Timing tensor reformats": 0.1},
}
SHARES = {
    "tensorrt": {
        **_COMMON,
        "Computing profile costs": {"Timing tactics": 0.8, "Determining refit engines": 0.2},
    },
    "tensorrt-rtx": {
        **_COMMON,
        "Computing profile costs": {"Timing tactics": 0.02, "Determining refit engines": 0.98},
    },
}
ROOT = "Building engine"
_SECONDS_BETWEEN_LINES = 0.5
_SECONDS_BEFORE_ETA = 3.0
LEAST_FOR_ETA = 0.1  # below it lie only the quick phases, which foretell nothing


class Progress:
    """The phases of one build. Thread-safe: TensorRT reports from whichever thread it likes."""

    def __init__(self, flavour: str, tell: Callable[[dict[str, object]], None]) -> None:
        self.cancelled = threading.Event()
        self._shares = SHARES[flavour]
        self._tell = tell
        self._lock = threading.Lock()
        self._done: dict[str, float] = {}  # phase → fraction of its own steps
        self._steps: dict[str, int] = {}
        self._furthest = 0.0
        self._started = time.monotonic()
        self._told = 0.0
        self._phase = "Reading the network"

    def begin(self, phase: str, steps: int) -> None:
        """A phase starts; one that starts again (another subgraph) never takes the whole back."""
        with self._lock:
            self._steps[phase] = max(1, steps)
            self._done[phase] = 0.0
            self._phase = phase
            self._say()

    def step(self, phase: str, step: int) -> None:
        """Step number ``step`` (from 0) of a phase is done."""
        with self._lock:
            self._done[phase] = min(1.0, (step + 1) / self._steps.get(phase, 1))
            self._say()

    def end(self, phase: str) -> None:
        """A phase is over."""
        with self._lock:
            self._done[phase] = 1.0
            self._say()

    def beat(self) -> None:
        """Say that the build lives, where the version at hand reports nothing itself."""
        with self._lock:
            self._say()

    @property
    def fraction(self) -> float | None:
        """0..1; None while nothing was reported."""
        if ROOT not in self._done:
            return None
        self._furthest = max(self._furthest, self._fraction(ROOT))
        return self._furthest

    def _fraction(self, phase: str) -> float:
        done = self._done.get(phase, 0.0)
        inner = self._shares.get(phase)
        if done >= 1.0 or inner is None:
            return done
        return sum(share * self._fraction(name) for name, share in inner.items())

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._told < _SECONDS_BETWEEN_LINES:
            return
        self._told = now
        elapsed = now - self._started
        fraction = self.fraction
        told = fraction is not None and fraction > LEAST_FOR_ETA and elapsed > _SECONDS_BEFORE_ETA
        self._tell(
            {
                "event": "progress",
                "phase": self._phase,
                "fraction": None if fraction is None else round(fraction, 3),
                "elapsed": round(elapsed, 1),
                "eta": round(elapsed / fraction - elapsed, 1) if told and fraction else None,
            }
        )


def json_lines(stream: TextIO) -> Callable[[dict[str, object]], None]:
    """A ``tell`` that writes one JSON object a line; a reader that has gone is no reason to stop."""

    def tell(message: dict[str, object]) -> None:
        try:
            stream.write(json.dumps(message) + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass

    return tell

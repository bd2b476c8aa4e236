"""``bench``: measures this machine and prints the figures as a table or as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from studio.bench.measure import measure
from studio.bench.table import table
from studio.settings import Settings
from studio.terminal import Terminal


def bench(settings: Settings, *, steps: int, rounds: int, as_json: bool, terminal: Terminal) -> int:
    """Measure and print on stdout; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="studio-bench-") as folder:
        # The pictures of a measurement are not the artist's.
        figures = measure(replace(settings, data_dir=Path(folder)), steps, rounds, terminal)
    figures["start_stages"] = dict(terminal.stages)
    sys.stdout.write(f"{json.dumps(figures, indent=1) if as_json else table(figures)}\n")
    return 0

"""How much memory a process and its children hold, at most, while something runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLE_SECONDS = 0.1


class Peak:
    """The largest sum of proportional set sizes seen, in bytes; shared pages are counted once."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """Watch the descendants of ``pid``, itself included, for the length of the block (Linux only)."""
    peak = Peak()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peak.bytes = max(peak.bytes, sum(_proportional(one) for one in _tree(pid)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:
                continue
    return found


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)

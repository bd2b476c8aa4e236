"""The processes of a running server, found as the kernel lists them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def pids(address: str, word: str) -> list[int]:
    """The processes of the embedded server at ``address`` with ``word`` in their command line."""
    folder = Path(address.removeprefix("unix:")).parent.name
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = command.read_text()
        except OSError:
            continue
        if folder in text and word in text:
            found.append(int(command.parent.name))
    return found


def kill(address: str, word: str) -> None:
    """``kill -9`` all of them."""
    for pid in pids(address, word):
        with suppress(ProcessLookupError):  # the keeper ends all of them as soon as one dies
            os.kill(pid, signal.SIGKILL)

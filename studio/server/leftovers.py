"""The temporary folder of a running server, and the removal of what a killed studio left behind.

A folder is in use as long as someone holds the lock on the file in it: the kernel lets go of it when
its holders are gone, however they went.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "triton-studio-"
MARK = "TRITON_STUDIO_RUN"  # in the environment of every process of a server: the name of its folder
SHARED_MEMORY = Path("/dev/shm")


def name() -> Path:
    """Where a new server's folder may be made. Known before it is there, it can be removed at any moment."""
    return Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(4)}"


def make(folder: Path) -> int:
    """Make a server's folder; returns the descriptor that holds its lock. Raises OSError."""
    folder.mkdir(mode=0o700)
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def sweep() -> None:
    """Remove the processes, shared memory and folders of servers whose studio is gone. Never raises."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                logger.info("Removing what an earlier studio left in %s", folder)
                remove(folder)
            finally:
                os.close(lock)


def remove(folder: Path) -> None:
    """End every process of this folder's server, and remove its shared memory and the folder."""
    marked = f"{MARK}={folder.name}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if marked in environment.read_bytes().split(b"\0"):
                os.kill(int(environment.parent.name), signal.SIGKILL)
    for segment in SHARED_MEMORY.glob(f"{folder.name}*"):
        with suppress(OSError):
            segment.unlink()
    shutil.rmtree(folder, ignore_errors=True)

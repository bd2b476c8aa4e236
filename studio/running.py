"""The studios of this checkout that are running now: a second launcher finds the first one here.

Each holds a lock on a small file for as long as it lives, however it ends, so a file without a
lock is a dead studio's and is removed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from studio.errors import CacheError

FOLDER = "running"
QUEUE = "queue"  # one at a time may add to or clean the folder


@dataclass(frozen=True)
class Instance:
    """A running studio. Empty strings are what it does not have yet."""

    pid: int
    since: float  # seconds since 1970
    url: str = ""  # of its page
    address: str = ""  # of its Triton server
    serves: str = ""  # what the server was started with, to be compared
    data_dir: str = ""


class Registration:
    """This studio's own entry."""

    def __init__(self, file: Path, instance: Instance) -> None:
        self._file = file
        self.instance = instance
        self._write()

    def tell(self, *, url: str, address: str, data_dir: str) -> None:
        """Add what is known once the page is up, and again when the server has moved."""
        self.instance = replace(self.instance, url=url, address=address, data_dir=data_dir)
        self._write()

    def _write(self) -> None:
        draft = self._file.with_suffix(".new")
        with suppress(OSError):  # a studio that is hard to find is better than none
            draft.write_text(json.dumps(asdict(self.instance)), encoding="utf-8")
            draft.replace(self._file)

    def elders(self) -> list[Instance]:
        """The studios that were there before this one, the first one first."""
        mine = (self.instance.since, self.instance.pid)
        there = running(self._file.parents[1])
        return [instance for instance in there if (instance.since, instance.pid) < mine]


@contextmanager
def registered(cache_dir: Path, serves: str) -> Iterator[Registration]:
    """Be listed among the running studios for the length of the block. Raises CacheError."""
    folder = cache_dir / FOLDER
    file = folder / f"{os.getpid()}.json"
    lock = FileLock(file.with_suffix(".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / QUEUE):
            lock.acquire(timeout=0)
            registration = Registration(file, Instance(os.getpid(), time.time(), serves=serves))
    except (OSError, Timeout) as error:
        raise CacheError(
            f"{folder} cannot be written: {error}.", hint="Name another folder with STUDIO_CACHE."
        ) from error
    try:
        yield registration
    finally:
        _remove(file)
        lock.release()


def running(cache_dir: Path) -> list[Instance]:
    """The studios that run now, the first one first; entries of dead ones are removed."""
    folder = cache_dir / FOLDER
    found: list[Instance] = []
    with suppress(OSError), FileLock(folder / QUEUE):
        for file in folder.glob("*.lock"):
            entry = file.with_suffix(".json")
            if _held(file):
                found += _read(entry)
            else:
                _remove(entry)
    return sorted(found, key=lambda instance: (instance.since, instance.pid))


def _held(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except (OSError, Timeout):
        return True
    lock.release()
    return False


def _read(file: Path) -> list[Instance]:
    try:
        return [Instance(**json.loads(file.read_text(encoding="utf-8")))]
    except (OSError, ValueError, TypeError):
        return []


def _remove(entry: Path) -> None:
    for file in (entry, entry.with_suffix(".lock"), entry.with_suffix(".new")):
        with suppress(OSError):
            file.unlink(missing_ok=True)

"""Which container is in use: a folder a container, with a lock that its studio holds while it lives."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

NAME_PREFIX = "triton-studio-"  # of a container, before its lease's name
LABEL_OWNER = "org.triton-studio.owner"  # which checkout's studio a container belongs to
LABEL_CACHE = "org.triton-studio.cache"  # and which cache folder, where its lease is


@dataclass(frozen=True)
class Lease:
    """The right to a container, and the folder of its repository. Ends with the process at the latest."""

    folder: Path
    lock: FileLock

    @property
    def name(self) -> str:
        """What the container is called after."""
        return self.folder.name

    @property
    def container(self) -> str:
        """The container's own name."""
        return NAME_PREFIX + self.name

    @property
    def models(self) -> Path:
        """The model repository that the container reads."""
        return self.folder / "models"

    def share_with(self, uid: int) -> None:
        """Let the container's user read the repository."""
        for path in (self.models, *self.models.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        give(self.models, uid)

    def end(self, gone: bool) -> None:
        """Give the lease up; its folder goes where the container is ``gone``, which else still reads it."""
        if gone:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.release()


def labels(owner: str, cache_dir: Path) -> dict[str, str]:
    """What tells a container of ours from all others."""
    return {LABEL_OWNER: owner, LABEL_CACHE: str(cache_dir)}


def take(cache_dir: Path, name: str) -> Lease:
    """A lease of that name, or of another where a living studio holds it. Starts with an empty folder."""
    attempt = 0
    while (lease := try_take(cache_dir, f"{name}-{attempt}" if attempt else name)) is None:
        attempt += 1
    shutil.rmtree(lease.models, ignore_errors=True)
    lease.models.mkdir()
    return lease


def try_take(cache_dir: Path, name: str) -> Lease | None:
    """The lease of that name, or None while a living studio holds it."""
    folder = cache_dir / "containers" / name
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return Lease(folder, lock)


def any_left(cache_dir: Path) -> bool:
    """Whether there may be containers, without asking Docker."""
    folder = cache_dir / "containers"
    return folder.is_dir() and any(folder.iterdir())


def give(folder: Path, uid: int) -> None:
    """Make ``folder`` the container user's to write, where this user may."""
    if hasattr(os, "chown"):
        with suppress(PermissionError):
            os.chown(folder, uid, uid)

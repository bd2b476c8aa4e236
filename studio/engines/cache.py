"""The engines on this machine: ``plans/<key>/`` with the plan and, beside it, what is known of it.

An entry appears whole or not at all, is checked at every look-up, and is moved to ``quarantine/`` with the
reason when it cannot be trusted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from filelock import FileLock, Timeout

from studio.engines.entry import Entry, Facts, Unfit, check_plan, plan_name, read_entry, write_sidecar
from studio.engines.key import EngineKey
from studio.engines.verified import sha256
from studio.errors import BuildCancelled, CacheError, why
from studio.report import Report

WHY = "why.txt"  # in quarantine


@dataclass(frozen=True)
class Miss:
    """Why the cache has no engine for a key: a sentence, and how the nearest one differs."""

    reason: str
    differences: tuple[str, ...] = ()


@dataclass
class EngineCache:
    """The ``plans/``, ``quarantine/`` and ``logs/`` of one cache folder."""

    root: Path
    set_aside: list[str] = field(default_factory=list)  # what this process quarantined, for the log

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def compiled(self) -> Path:
        """Where runtimes keep the kernels they compile."""
        return self.root / "compiled"

    def log_file(self, key: EngineKey) -> Path:
        """Where the builder's log of ``key`` is kept, whether it succeeded or not."""
        return self.root / "logs" / f"{key.name}.log"

    def look_up(self, key: EngineKey) -> Entry | Miss:
        """The engine of ``key``, checked against its checksum; a damaged or foreign one is set aside."""
        folder = self.plans / key.name
        if folder.is_dir():
            try:
                entry = read_entry(folder)
                if entry.key != key:
                    raise Unfit(
                        "its sidecar describes another engine: " + ", ".join(key.differences(entry.key))
                    )
                check_plan(entry)
                return entry
            except Unfit as unfit:
                self.set_engine_aside(folder, str(unfit))
                return Miss(f"The engine in the cache was set aside: {unfit}.")
        return self._nearest(key)

    def _nearest(self, key: EngineKey) -> Miss:
        alike = [
            key.differences(entry.key) for entry in self.entries() if entry.key.component == key.component
        ]
        differences = min(alike, key=len, default=[])
        if not differences:
            return Miss(f"No engine for the {key.component.replace('_', ' ')} was built yet.")
        return Miss(f"The nearest engine differs: {', '.join(differences)}.", tuple(differences))

    def entries(self) -> list[Entry]:
        """Every readable entry. Plans are not hashed here: look_up and verify do that."""
        found = []
        for folder in self._folders():
            try:
                found.append(read_entry(folder))
            except Unfit:
                continue
        return found

    def verify(self) -> tuple[list[Entry], list[str]]:
        """Check every entry; returns the sound ones, and what was set aside and why."""
        sound, unsound = [], []
        for folder in self._folders():
            try:
                entry = read_entry(folder)
                if folder.name != entry.key.name:
                    raise Unfit("its folder has another engine's name")
                check_plan(entry)
                sound.append(entry)
            except Unfit as unfit:
                self.set_engine_aside(folder, str(unfit))
                unsound.append(f"{folder.name}: {unfit}")
        return sound, unsound

    def _folders(self) -> list[Path]:
        try:
            return sorted(path for path in self.plans.iterdir() if path.is_dir() and path.name[0] != ".")
        except FileNotFoundError:
            return []

    def set_engine_aside(self, folder: Path, reason: str) -> None:
        """Move an entry to ``quarantine/`` with the reason beside it. Raises CacheError."""
        target = self.quarantine / f"{folder.name}-{time.time_ns()}"
        with told("An engine that cannot be trusted could not be set aside"):
            self.quarantine.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            (target / WHY).write_text(reason + "\n", encoding="utf-8")
        self.set_aside.append(f"{folder.name}: {reason}")

    @contextmanager
    def alone(self, key: EngineKey, report: Report, cancel: Event) -> Iterator[None]:
        """Hold ``key``: a second builder waits for the first. The lock dies with its process.

        Raises BuildCancelled while waiting, and CacheError.
        """
        with told("The engine cache could not be written"):
            self.plans.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.plans / f".{key.name}.lock")
        while True:
            try:
                lock.acquire(timeout=0.2)
                break
            except Timeout:
                report("Waiting for another studio that is building this engine", None)
                if cancel.is_set():
                    raise BuildCancelled(
                        "The build was cancelled.", state="Nothing was kept of it."
                    ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def staging(self, key: EngineKey) -> Iterator[Path]:
        """An empty folder to make an entry in; gone afterwards unless it was kept. Hold ``alone`` first."""
        folder = self.plans / f".{key.name}.partial"
        with told("The engine could not be written"):
            shutil.rmtree(folder, ignore_errors=True)  # of a builder that was killed
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, staged: Path, key: EngineKey, facts: Facts) -> Entry:
        """Make the plan in ``staged`` the entry of ``key``. Raises CacheError."""
        plan = staged / plan_name(key)
        with told("The engine could not be kept"):
            entry = Entry(self.plans / key.name, key, sha256(plan), plan.stat().st_size, facts)
            write_sidecar(staged, entry)
            with plan.open("rb") as file:
                os.fsync(file.fileno())
            shutil.rmtree(entry.folder, ignore_errors=True)
            staged.rename(entry.folder)
        return entry

    def note(self, entry: Entry, **facts: Any) -> Entry:
        """Write facts into the sidecar, such as ``latency_ms`` or ``rejected``. Raises CacheError."""
        entry = replace(entry, facts=replace(entry.facts, **facts))
        with told("What was found of the engine could not be kept"):
            write_sidecar(entry.folder, entry)
        return entry

    def remove(self, folder: Path) -> int:
        """Delete an entry or a quarantined one; returns the bytes freed."""
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with told(f"{folder.name} could not be deleted"):
            shutil.rmtree(folder)
        return size


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn a failing disk into a CacheError that says ``what``."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{what}: {why(error)}.",
            state="No engine was lost; pictures are made by the slower engine meanwhile.",
            hint="Free some space, or name another folder with STUDIO_CACHE.",
        ) from error

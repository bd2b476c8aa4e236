"""``doctor``: what this machine has, what the studio will use and why, and what to fix."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from studio import __version__, machine, running
from studio.checkpoint import resolve
from studio.engines import cpu
from studio.engines.export import exported
from studio.errors import StudioError
from studio.machine import Machine
from studio.prepare import threads
from studio.settings import Settings

GIB = 2**30
LEAST_ROOM = 2 * GIB  # for exports and pictures
LEAST_SHARED_MEMORY = 64 * 2**20
OK, NOTE, PROBLEM = "ok", "note", "problem"
MARKS = {OK: " ", NOTE: "·", PROBLEM: "✗"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``fix`` says what to do about a note or a problem."""

    subject: str
    state: str
    text: str
    fix: str = ""


def doctor(settings: Settings, *, as_json: bool) -> int:
    """Print the findings on stdout; returns 0 when a studio can run here, else 1."""
    findings = list(examine(settings))
    sick = any(finding.state == PROBLEM for finding in findings)
    if as_json:
        facts = {"healthy": not sick, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(f"{json.dumps(facts, indent=1)}\n")
        return int(sick)
    for finding in findings:
        sys.stdout.write(f"{MARKS[finding.state]} {finding.subject:12} {finding.text}\n")
        if finding.fix:
            sys.stdout.write(f"{'':15}→ {finding.fix}\n")
    verdict = "Something must be fixed first: the lines with ✗." if sick else "The studio can run here."
    sys.stdout.write(f"\n{verdict}\n")
    return int(sick)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, from the machine up to the page."""
    yield Finding("Studio", OK, f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    yield Finding("Memory", OK, _memory())
    try:
        here = machine.look(settings)
    except StudioError as error:
        yield Finding("Settings", PROBLEM, error.what, error.hint)
        return
    yield from _gpu(here)
    yield from _server(here)
    yield from _checkpoint(settings)
    yield from _folders(settings)
    yield from _running(settings)


def _gpu(here: Machine) -> Iterator[Finding]:
    chosen = {one.uuid for one in here.gpus}
    for gpu in here.found.gpus:
        yield Finding("GPU", OK, f"{gpu.index}: {gpu}{'' if gpu.uuid in chosen else ' (not used)'}")
    if not here.found.gpus:
        yield Finding("GPU", NOTE, f"none, because {here.found.reason}", "The CPU draws; that is no fault.")
    else:
        for note in here.found.notes:
            yield Finding("GPU", NOTE, note)
    if here.engine.flavour:
        chosen_engine = f"{here.engine.flavour} {here.engine.precision}"
        why = f"{here.engine.flavour_reason}; {here.engine.precision_reason}"
        if here.engine.missing:
            yield Finding("GPU engine", NOTE, f"{chosen_engine} would be the one: {why}", here.engine.missing)
        else:
            yield Finding("GPU engine", OK, f"{chosen_engine} ({here.engine.version}): {why}")
    elif here.gpus:
        yield Finding("GPU engine", NOTE, f"none: {here.engine.flavour_reason}")


def _server(here: Machine) -> Iterator[Finding]:
    where = {"embedded": "embedded, as a process of ours", "container": "in a container"}[here.runtime]
    yield Finding("Triton", OK, f"{where}: {here.runtime_reason}")
    if here.runtime == machine.CONTAINER:
        from studio.server.container import engine

        try:
            version = engine.connect().version()["Version"]
            yield Finding("Docker", OK, f"version {version} answers")
        except StudioError as error:
            yield Finding("Docker", PROBLEM, error.what, error.hint)
        return
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free < LEAST_SHARED_MEMORY:
        free = shutil.disk_usage(shared).free // 2**20
        text = f"/dev/shm has {free} MB free and Triton needs 64"
        yield Finding("Memory", PROBLEM, text, "Give it more (docker run --shm-size).")


def _checkpoint(settings: Settings) -> Iterator[Finding]:
    try:
        checkpoint = resolve(settings.model)
    except StudioError as error:
        yield Finding("Checkpoint", PROBLEM, error.what, error.hint)
        return
    width, height = checkpoint.default_size
    folder = exported(checkpoint, settings.cache_dir)
    state = "prepared" if folder else "is prepared at the first start"
    yield Finding("Checkpoint", OK, f"{checkpoint.name} ({checkpoint.family}, {width} × {height}), {state}")
    cores = threads(settings)
    if folder is None:
        able = sorted(cpu.flags().intersection(cpu.BF16_FLAGS))
        has = (
            f"has {' and '.join(able)}: OpenVINO in bfloat16 is tried" if able else "lacks bfloat16: float32"
        )
        yield Finding("CPU engine", OK, f"decided at the first start; this CPU {has} ({cores} threads)")
        return
    wanted = settings.engine if settings.engine in cpu.FLAVOURS else "auto"
    choice = cpu.choose(wanted, folder, settings.cache_dir, cores)
    yield Finding("CPU engine", OK, f"{choice.label} on {cores} threads: {choice.reason}")


def _folders(settings: Settings) -> Iterator[Finding]:
    for subject, folder, hint in (
        ("Pictures", settings.data_dir, "STUDIO_DATA names another folder."),
        ("Cache", settings.cache_dir, "STUDIO_CACHE names another folder."),
        ("Temporary", Path(tempfile.gettempdir()), "TMPDIR names another folder."),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(there, os.W_OK):
            yield Finding(subject, PROBLEM, f"{folder} cannot be written", hint)
            continue
        free = shutil.disk_usage(there).free
        state = OK if free >= LEAST_ROOM else NOTE
        yield Finding(subject, state, f"{folder} ({free / GIB:.0f} GB free)", hint if state == NOTE else "")


def _running(settings: Settings) -> Iterator[Finding]:
    for instance in running.running(settings.cache_dir):
        where = instance.url or "a page to come"
        yield Finding("Running", NOTE, f"a studio at {where} (process {instance.pid})")


def _memory() -> str:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return f"{os.cpu_count()} CPUs"
    return f"{total / GIB:.0f} GB, {os.cpu_count()} CPUs, {cpu.physical_cores()} cores for engines"

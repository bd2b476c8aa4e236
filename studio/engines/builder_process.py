"""Runs the builder as a process of its own: a crash or a leak of TensorRT's is not the studio's."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.engines.cache import EngineCache, told
from studio.engines.flavour import TENSORRT_RTX
from studio.engines.order import Order
from studio.engines.trial import Python
from studio.errors import BuildCancelled, BuildError
from studio.gpu import environment
from studio.report import Report

ROOT = Path(__file__).parents[2]
MIB = 2**20
SECONDS_TO_END = 10.0
SECONDS_BETWEEN_LOOKS = 0.05
_CANCELLED = 3  # the builder's exit status


def run(
    order: Order,
    cache: EngineCache,
    plan: Path,
    workspace: int,
    report: Report,
    cancel: threading.Event,
    busy: Callable[[], bool],
    python: Python,
) -> dict[str, Any]:
    """Build ``order`` into ``plan``; returns the builder's last words. Raises BuildError, BuildCancelled.

    The builder is stopped while ``busy``, so that it takes nothing from whoever is drawing.
    """
    log_file = cache.log_file(order.key)
    timings = cache.root / "timings" / f"{order.key.flavour}-{order.key.version}-sm{order.key.capability}"
    command = [*python, "-m", "studio.engines.builder", *_arguments(order, plan, workspace, timings)]
    last: dict[str, Any] = {}
    with _started(command, order, log_file) as process:
        for line in _lines(process, cancel, busy):
            if line["event"] == "progress":
                report(_progress(order, line), line["fraction"])
            else:
                last = line
    if cancel.is_set() or process.returncode == _CANCELLED:
        raise BuildCancelled(
            f"The build of the {order.title} was cancelled.", state="Nothing was kept of it."
        )
    if process.returncode != 0 or last.get("event") != "done" or not plan.is_file():
        raise BuildError(
            _why(order, process.returncode, last),
            state="No engine was built; pictures are made by the slower engine meanwhile.",
            hint=f"The builder's log is {log_file}.",
        )
    if last["version"] != order.key.version:
        raise BuildError(
            f"The builder has {order.key.flavour} {last['version']} and {order.key.version} was expected.",
            state="The engine was thrown away.",
            hint="Restart the studio: it was upgraded while it ran.",
        )
    return last


def _why(order: Order, status: int, last: dict[str, Any]) -> str:
    what = f"The {order.title} could not be built"
    if last.get("event") == "failed":
        return f"{what}. {last['what']}"
    if status == -9:
        return f"{what}: the builder was killed, most likely because the computer ran out of memory."
    end = f"signal {-status}" if status < 0 else f"status {status}"
    return f"{what}: the builder ended unexpectedly ({end})."


def _progress(order: Order, line: dict[str, Any]) -> str:
    left = line.get("eta")
    phase = f"Building the {order.title}"
    return (
        f"{phase}, about {_duration(left)} left" if left else f"{phase}, {_duration(line['elapsed'])} so far"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _arguments(order: Order, plan: Path, workspace: int, timings: Path) -> list[str]:
    key = order.key
    arguments = [
        *("--onnx", str(order.onnx.absolute()), "--plan", str(plan.absolute())),
        *("--flavour", key.flavour, "--precision", key.precision, "--level", str(key.level)),
        *("--workspace", str(workspace // MIB), "--timing-cache", str(timings.absolute())),
        *(f"--shape={name}={_shape(shapes)}" for name, shapes in order.shapes.items()),
        "--attached",
    ]
    if key.flavour == TENSORRT_RTX:
        arguments += ["--compute", key.capability]
    return [*arguments, "--refit"] if key.refit else arguments


def _shape(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ":".join("x".join(map(str, shape)) for shape in shapes)


@contextmanager
def _started(command: list[str], order: Order, log_file: Path) -> Iterator[subprocess.Popen[str]]:
    """The builder's process; gone afterwards, whatever happens here."""
    with told("The builder's log could not be written"):
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log = log_file.open("wb")
    with log:
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment((order.gpu,) if order.gpu else ()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                process_group=0,  # Ctrl-C reaches the studio alone, which ends its builder in order
            )
        except OSError as error:
            raise BuildError(
                f"The builder could not start: {error}.", state="No engine was built."
            ) from error
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Close the builder's stdin, which it takes as the wish to stop, and wait for it."""
    assert process.stdin is not None
    process.stdin.close()
    _hold(process, False)
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _hold(process: subprocess.Popen[str], held: bool) -> None:
    """Have the builder stand still, or go on.

    Not SIGSTOP: what runs a builder in a container must be able to catch the wish and pass it on. And a
    builder that stands still when the studio is killed is ended by the kernel (setpgid(2), orphaned groups).
    """
    if hasattr(signal, "SIGTSTP"):  # Windows has none: there the build and the picture share the GPU
        process.send_signal(signal.SIGTSTP if held else signal.SIGCONT)


def _lines(
    process: subprocess.Popen[str], cancel: threading.Event, busy: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """What the builder tells, until it ends or ``cancel`` is set."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    held = False
    while not cancel.is_set():
        if busy() != held:
            held = not held
            _hold(process, held)
        try:
            line = lines.get(timeout=SECONDS_BETWEEN_LOOKS)
        except queue.Empty:
            continue
        if line is None:
            return
        if line.startswith('{"event": '):
            yield json.loads(line)


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)

"""Has an engine built: finds room, runs the builder, tries the result, keeps it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from studio import gpu as gpus
from studio.engines import builder_process, trial
from studio.engines.cache import EngineCache, told
from studio.engines.entry import Entry, Facts, Unfit, plan_name
from studio.engines.order import Order
from studio.engines.trial import HERE, Python
from studio.errors import BuildError, CacheError
from studio.gpu import GIB, Gpu
from studio.report import Report, silent

# Of the GPU's free memory, after the weights twice over; the server's own work needs the rest.
WORKSPACE_SHARE = 0.75
LEAST_FREE = GIB
# A plan is about as large as its ONNX; the timing cache and the builder's scratch come on top.
DISK_PER_ONNX = 2.5
Refresh = Callable[[Gpu], Gpu | None]


def build(
    order: Order,
    cache: EngineCache,
    report: Report = silent,
    cancel: threading.Event | None = None,
    *,
    python: Python = HERE,
    refresh: Refresh = gpus.refresh,
    busy: Callable[[], bool] = lambda: False,
) -> Entry:
    """The engine of ``order``, from the cache or built now; a second caller waits for the first.

    ``python`` starts the interpreter that has the TensorRT. While ``busy`` says so, the builder stands still.
    On this machine's GPU the engine is tried before it is kept. Raises BuildError, BuildCancelled or
    CacheError; nothing half-made stays.
    """
    cancel = cancel or threading.Event()
    with cache.alone(order.key, report, cancel):
        found = cache.look_up(order.key)
        if isinstance(found, Entry):
            return found
        report(f"Building the {order.title}", 0.0)
        workspace = _workspace(order, refresh)
        with cache.staging(order.key) as folder:
            _check_disk(order, folder)
            plan = folder / plan_name(order.key)
            done = builder_process.run(order, cache, plan, workspace, report, cancel, busy, python)
            latency = _try(order, plan, cache, python, report)
            facts = Facts(
                gpu=order.gpu.name if order.gpu else "",
                driver=order.gpu.driver if order.gpu else "",
                built_at=datetime.now(UTC).isoformat(timespec="seconds"),
                build_seconds=float(done["seconds"]),
                workspace=int(done["workspace"]),
                latency_ms=latency,
                checkpoint=order.checkpoint,
            )
            entry = cache.keep(folder, order.key, facts)
    report(f"Built the {order.title} in {facts.build_seconds:.0f} s", 1.0)
    return entry


def _workspace(order: Order, refresh: Refresh) -> int:
    """Bytes of scratch memory that the build may take; 0 where it does not use this machine's GPU.

    Raises BuildError when the GPU has gone, or is full.
    """
    if order.gpu is None:
        return 0
    now = refresh(order.gpu)
    if now is None:
        raise BuildError(
            f"{order.gpu.name} has vanished.",
            state="No engine was built.",
            hint="Run nvidia-smi; if it does not list the GPU, restart the computer.",
        )
    left = now.memory_free - 2 * order.weight
    if left < LEAST_FREE:
        needed, free = ((size + 2 * order.weight) / GIB for size in (LEAST_FREE, left))
        raise BuildError(
            f"Building the {order.title} needs {needed:.1f} GB of GPU memory and {free:.1f} GB are free.",
            state="No engine was built; pictures are made by the slower engine meanwhile.",
            hint="Close other programs that use the GPU; nvidia-smi lists them.",
        )
    return int(left * WORKSPACE_SHARE)


def _check_disk(order: Order, folder: Path) -> None:
    with told("The disk could not be asked how much is free"):
        free = shutil.disk_usage(folder).free
    needed = int(order.weight * DISK_PER_ONNX)
    if free < needed:
        raise CacheError(
            f"The {order.title} needs {needed / GIB:.1f} GB of disk and {free / GIB:.1f} GB are free.",
            state="No engine was built.",
            hint="Free some space (`engines prune` helps), or name another folder with STUDIO_CACHE.",
        )


def _try(order: Order, plan: Path, cache: EngineCache, python: Python, report: Report) -> float | None:
    if order.gpu is not None:
        report(f"Trying the {order.title}", None)
    try:
        return trial.time_plan(order, plan, cache, python)
    except Unfit as unfit:
        raise BuildError(
            f"The {order.title} was built but does not run: {unfit}.",
            state="It was thrown away.",
            hint=f"The builder's log is {cache.log_file(order.key)}.",
        ) from unfit

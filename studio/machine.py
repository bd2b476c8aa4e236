"""What this machine has, and what the studio makes of it: GPU, engine flavour and where Triton runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from studio import gpu
from studio.engines import cpu, flavour
from studio.errors import SettingsError
from studio.settings import Settings

EMBEDDED = "embedded"
CONTAINER = "container"


@dataclass(frozen=True)
class Machine:
    """The decisions that need no checkpoint, each with its reason."""

    found: gpu.Detection
    gpus: tuple[gpu.Gpu, ...]  # those to use; empty: the CPU
    engine: flavour.Choice  # of the first GPU; no flavour: the CPU's engines
    runtime: str  # EMBEDDED or CONTAINER
    runtime_reason: str

    @property
    def gpu(self) -> gpu.Gpu | None:
        """The first GPU to use."""
        return self.gpus[0] if self.gpus else None

    def __str__(self) -> str:
        if self.gpus:
            return ", ".join(one.name for one in self.gpus)
        return f"no GPU, because {self.found.reason}" if self.found.reason else "the CPU, as asked"


def look(
    settings: Settings,
    detect: Callable[[], gpu.Detection] = gpu.detect,
    installed: Callable[[], Mapping[str, flavour.Installed]] = flavour.installed,
) -> Machine:
    """Detect and decide. Raises SettingsError for a setting that this machine cannot follow."""
    found = detect()
    gpus = gpu.choose(found, settings.gpu)
    if settings.engine in cpu.FLAVOURS:
        gpus = ()
    engine = flavour.choose(gpus[0] if gpus else None, settings.engine, installed())
    if settings.engine == engine.flavour and engine.missing:
        raise SettingsError(f"{engine.flavour} is not installed.", hint=f"To have it: {engine.missing}.")
    runtime, reason = _runtime(settings, gpus)
    return Machine(found, gpus, engine, runtime, reason)


def _runtime(settings: Settings, gpus: tuple[gpu.Gpu, ...]) -> tuple[str, str]:
    embeddable = _embeddable()
    if settings.runtime == CONTAINER:
        return CONTAINER, "asked for by --runtime"
    if settings.runtime == EMBEDDED:
        if not embeddable:
            raise SettingsError(
                "The embedded Triton exists for Linux on x86-64 only.", hint="Use --runtime container."
            )
        return EMBEDDED, "asked for by --runtime"
    if not embeddable:
        return CONTAINER, "the embedded Triton exists for Linux on x86-64 only"
    if not gpus:
        return EMBEDDED, "no GPU is used, so a container has nothing to add"
    from studio.server.container import judge  # docker is imported only where it may be of use

    verdict = judge(gpus[0], settings.image)
    return (CONTAINER if verdict.usable else EMBEDDED), verdict.reason


def _embeddable() -> bool:
    if sys.platform != "linux":
        return False
    from studio.server.embedded import find_wheel

    return find_wheel() is not None

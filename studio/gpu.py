"""The GPUs of this machine, as NVML tells of them, and which of them the studio uses."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from studio.errors import SettingsError

GIB = 2**30

# NVML's failures at start, as a person can act on them.
_WHY_NOT: dict[int, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded (run nvidia-smi to see why)",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was upgraded since; restart the computer",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open the NVIDIA devices",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "the NVIDIA driver is too old to be asked about its GPUs",
    pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU has fallen off the bus; restart the machine",
    pynvml.NVML_ERROR_RESET_REQUIRED: "the GPU needs a reset before it can be used; restart the machine",
}
_WHY_NOT_WSL = "WSL uses Windows' NVIDIA driver: install the current one in Windows, then `wsl --shutdown`"


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of one. Memory in bytes."""

    index: int  # in PCI order, which CUDA follows only with CUDA_DEVICE_ORDER=PCI_BUS_ID
    name: str
    uuid: str  # "GPU-…" or "MIG-…": what CUDA_VISIBLE_DEVICES and Docker take
    capability: tuple[int, int]
    memory_total: int
    memory_free: int
    driver: str
    cuda: tuple[int, int]  # the newest CUDA that the driver runs
    mig: bool = False
    wsl: bool = False

    @property
    def compute(self) -> str:
        """The compute capability as people write it, such as ``8.9``."""
        return f"{self.capability[0]}.{self.capability[1]}"

    def __str__(self) -> str:
        total, free = (f"{size / GIB:.1f} GB" for size in (self.memory_total, self.memory_free))
        driver = f"driver {self.driver} (CUDA {self.cuda[0]}.{self.cuda[1]}{', WSL' if self.wsl else ''})"
        return f"{self.name}, {total} ({free} free), compute {self.compute}, {driver}"


@dataclass(frozen=True)
class Detection:
    """The GPUs found, and for what was not found or cannot be used: why."""

    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why there is no GPU, as a clause that follows "no GPU, because"; empty where there is one."""
        return "" if self.gpus else "; ".join(self.notes)

    def __str__(self) -> str:
        return "; ".join(map(str, self.gpus)) or f"No GPU, because {self.reason}"


def in_wsl() -> bool:
    """Whether this Linux runs inside Windows."""
    return "microsoft" in platform.release().lower()


def detect(nvml: Any = pynvml, wsl: bool | None = None) -> Detection:
    """Every GPU of this machine. Never raises: whatever NVML answers becomes a note."""
    wsl = in_wsl() if wsl is None else wsl
    try:
        nvml.nvmlInit()
    except pynvml.NVMLError as error:
        missing_in_wsl = wsl and error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        return Detection((), (_WHY_NOT_WSL if missing_in_wsl else _why_not(error),))
    try:
        return _detect(nvml, wsl)
    except pynvml.NVMLError as error:
        return Detection((), (_why_not(error),))
    finally:
        _optional(nvml.nvmlShutdown, default=None)


def _detect(nvml: Any, wsl: bool) -> Detection:
    driver = str(nvml.nvmlSystemGetDriverVersion())
    cuda = int(_optional(nvml.nvmlSystemGetCudaDriverVersion_v2, default=0))
    gpus: list[Gpu] = []
    notes: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            whole = Gpu(
                index=index,
                name=str(nvml.nvmlDeviceGetName(handle)),
                uuid=str(nvml.nvmlDeviceGetUUID(handle)),
                capability=_pair(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
                memory_total=0,
                memory_free=0,
                driver=driver,
                cuda=(cuda // 1000, cuda % 1000 // 10),
                wsl=wsl,
            )
            found = list(_slices(nvml, handle, whole))
        except pynvml.NVMLError as error:  # one sick card must not hide its neighbour
            notes.append(f"GPU {index}: {_why_not(error)}")
            continue
        gpus += found
        if not found:
            notes.append(f"GPU {index} ({whole.name}) has MIG on and no slice; make one with nvidia-smi mig")
    if not gpus and not notes:
        notes.append("the NVIDIA driver sees no GPU")
    return Detection(tuple(gpus), tuple(notes))


def _slices(nvml: Any, handle: Any, whole: Gpu) -> Iterator[Gpu]:
    """The GPU itself, or its MIG slices where MIG is on: then the whole cannot be used."""
    mig, _pending = _optional(nvml.nvmlDeviceGetMigMode, handle, default=(0, 0))  # GeForce: NotSupported
    if not mig:
        total, free = _memory(nvml, handle)
        yield replace(whole, memory_total=total, memory_free=free)
        return
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        part = _optional(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot, default=None)
        if part is None:  # slots may be empty
            continue
        total, free = _memory(nvml, part)
        name = str(_optional(nvml.nvmlDeviceGetName, part, default=whole.name))
        name = name if "MIG" in name else f"{name} MIG {total / GIB:.0f}gb"
        uuid = str(nvml.nvmlDeviceGetUUID(part))
        yield replace(whole, name=name, uuid=uuid, memory_total=total, memory_free=free, mig=True)


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """Total and free bytes. Version 2 leaves out what the driver keeps for itself; old drivers lack it."""
    info = _optional(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2, default=None)
    info = info or nvml.nvmlDeviceGetMemoryInfo(handle)
    return int(info.total), int(info.free)


def _optional(query: Any, *arguments: Any, default: Any) -> Any:
    """What NVML answers, or ``default``: NotSupported is a normal answer of many queries."""
    try:
        return query(*arguments)
    except pynvml.NVMLError:
        return default


def _pair(values: Any) -> tuple[int, int]:
    major, minor = values
    return int(major), int(minor)


def _why_not(error: pynvml.NVMLError) -> str:
    return _WHY_NOT.get(error.value, f"the NVIDIA driver answered: {error}")


def choose(found: Detection, wanted: str = "auto") -> tuple[Gpu, ...]:
    """The GPUs to use: ``wanted`` is ``auto``, ``all``, an index or a UUID (or its beginning).

    ``auto`` takes the one with the most memory, then the newest, then the first; ``all`` that one and those
    of its kind, because engines are made for one kind. Empty where there is no GPU.
    Raises SettingsError when a GPU is named that is not there.
    """
    if wanted in ("auto", "all"):
        best = max(
            found.gpus, key=lambda gpu: (gpu.memory_total // GIB, gpu.capability, -gpu.index), default=None
        )
        if best is None:
            return ()
        alike = [gpu for gpu in found.gpus if gpu.name == best.name and gpu != best]
        return (best, *alike) if wanted == "all" else (best,)
    by_index = [gpu for gpu in found.gpus if wanted == str(gpu.index)]
    named = by_index or [gpu for gpu in found.gpus if len(wanted) >= 8 and gpu.uuid.startswith(wanted)]
    if not named:
        there = ", ".join(f"{gpu.index} ({gpu.name}, {gpu.uuid})" for gpu in found.gpus)
        raise SettingsError(
            f"There is no GPU {wanted!r} here: " + (f"there is {there}." if there else f"{found.reason}."),
            state="Nothing was started.",
            hint="Leave --gpu out to let the studio choose.",
        )
    return (named[0],)


def refresh(gpu: Gpu, nvml: Any = pynvml) -> Gpu | None:
    """``gpu`` with its free memory as it is now; None when it has vanished."""
    return next((now for now in detect(nvml, gpu.wsl).gpus if now.uuid == gpu.uuid), None)


def environment(gpus: tuple[Gpu, ...]) -> dict[str, str]:
    """This process's environment, changed so that a child sees exactly these GPUs; unchanged for none."""
    if not gpus:
        return dict(os.environ)
    uuids = ",".join(gpu.uuid for gpu in gpus)
    return {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": uuids}

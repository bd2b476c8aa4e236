"""Which engine runs on a GPU, and in which precision, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

from studio.errors import SettingsError
from studio.gpu import Gpu

TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt-rtx"

# The distributions that carry each flavour's Python module and the CUDA they need; the first found counts.
_DISTRIBUTIONS = {
    TENSORRT: {"tensorrt-cu13-bindings": 13, "tensorrt-cu12-bindings": 12, "tensorrt": 12},
    TENSORRT_RTX: {"tensorrt-rtx-cu13-bindings": 13, "tensorrt-rtx-cu12-bindings": 12},
}
# What `pip install` of each costs on disk. TensorRT's size is not fixed: its installer chooses.
_COST = {TENSORRT: "several GB", TENSORRT_RTX: "about 0.3 GB"}

# TensorRT-RTX 1.7's own list (ComputeCapability). Hopper and data-centre Blackwell need TensorRT.
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
OLDEST_CAPABILITY = (7, 5)
BF16_CAPABILITY = (8, 0)
EXTRAS_CUDA = 13  # what the wheels of this package's extras need
DRIVER_FOR_CUDA = {12: "525", 13: "580"}


class Installed(NamedTuple):
    """A flavour's Python module as found: its version, and the CUDA (major) it needs."""

    version: str
    cuda: int


@dataclass(frozen=True)
class Choice:
    """What a GPU (or none) is served with. ``flavour`` is empty where only the CPU engines are left."""

    flavour: str  # "tensorrt", "tensorrt-rtx" or ""
    flavour_reason: str
    precision: str  # "fp16" or "fp32"
    precision_reason: str
    version: str = ""  # of the installed flavour; empty when it is not installed yet

    @property
    def missing(self) -> str:
        """What to install to have this flavour and what it costs; empty where nothing is missing."""
        if not self.flavour or self.version:
            return ""
        return f"python launcher.py install {self.flavour} ({_COST[self.flavour]} on disk)"


def installed() -> dict[str, Installed]:
    """The flavours whose Python module is installed. Imports none of them."""
    found: dict[str, Installed] = {}
    for flavour, distributions in _DISTRIBUTIONS.items():
        for name, cuda in distributions.items():
            try:
                found.setdefault(flavour, Installed(metadata.version(name), cuda))
            except metadata.PackageNotFoundError:
                continue
    return found


def choose(
    gpu: Gpu | None,
    wanted: str = "auto",
    have: Mapping[str, Installed] | None = None,
) -> Choice:
    """The flavour and precision for ``gpu``.

    ``wanted`` is ``auto`` or a flavour; ``have`` is what ``installed()`` found (None: looks).
    Raises SettingsError for a flavour that cannot run on this GPU.
    """
    have = installed() if have is None else have
    if wanted in (TENSORRT, TENSORRT_RTX):
        unfit = _obstacle(gpu, wanted, have)
        if unfit:
            raise SettingsError(f"The engine {wanted!r} cannot run here: {unfit}.", hint="Use --engine auto.")
        flavour, reason = wanted, "asked for by --engine"
    elif wanted != "auto":
        flavour, reason = "", f"{wanted} was asked for by --engine"
    else:
        flavour, reason = _flavour(gpu, have)
    if not flavour:
        return Choice("", reason, "fp32", "the CPU engines' own choice")
    precision, precision_reason = precision_for(gpu)
    version = have[flavour].version if flavour in have else ""
    return Choice(flavour, reason, precision, precision_reason, version)


def _flavour(gpu: Gpu | None, have: Mapping[str, Installed]) -> tuple[str, str]:
    """The flavour that suits ``gpu`` best, and why."""
    obstacles = {flavour: _obstacle(gpu, flavour, have) for flavour in (TENSORRT, TENSORRT_RTX)}
    if gpu is None or all(obstacles.values()):
        return "", f"{obstacles[TENSORRT]}: ONNX Runtime or OpenVINO on the CPU"
    if obstacles[TENSORRT_RTX]:
        return TENSORRT, obstacles[TENSORRT_RTX]
    if TENSORRT in have and not obstacles[TENSORRT]:
        return TENSORRT, "it is installed, and tunes each engine on this very GPU"
    if TENSORRT_RTX in have:
        return TENSORRT_RTX, "it is installed, and builds in seconds"
    if "GeForce" in gpu.name or "RTX" in gpu.name:
        return TENSORRT_RTX, f"made for cards such as {gpu.name}: a small download, and builds in seconds"
    return TENSORRT, f"the one for data-centre GPUs such as {gpu.name}"


def _obstacle(gpu: Gpu | None, flavour: str, have: Mapping[str, Installed]) -> str:
    """Why ``flavour`` cannot run on ``gpu``; empty when it can."""
    if gpu is None:
        return "there is no NVIDIA GPU"
    if gpu.capability < OLDEST_CAPABILITY:
        return (
            f"{gpu.name} has compute capability {gpu.compute}; TensorRT needs 7.5 (a 2018 RTX card) or newer"
        )
    needed = have[flavour].cuda if flavour in have else EXTRAS_CUDA
    if gpu.cuda < (needed, 0):
        return (
            f"driver {gpu.driver} runs CUDA {gpu.cuda[0]}.{gpu.cuda[1]} and {flavour} needs {needed}.0 "
            f"(driver {DRIVER_FOR_CUDA[needed]} or newer)"
        )
    return _rtx_obstacle(gpu) if flavour == TENSORRT_RTX else ""


def _rtx_obstacle(gpu: Gpu) -> str:
    if gpu.capability in RTX_CAPABILITIES:
        return ""
    return f"TensorRT-RTX has no engine for compute capability {gpu.compute} ({gpu.name})"


def precision_for(gpu: Gpu | None) -> tuple[str, str]:
    """The precision that suits ``gpu``, and why."""
    if gpu is not None and "GTX 16" in gpu.name:
        return "fp32", f"{gpu.name} gives black pictures in fp16"
    wide = "bf16" if gpu is not None and gpu.capability >= BF16_CAPABILITY else "fp32"
    return (
        "fp16",
        f"half the memory, and the fastest on tensor cores; what leaves its range is done in {wide}",
    )

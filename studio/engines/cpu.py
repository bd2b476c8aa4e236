"""Which engine runs on the CPU: chosen by what the CPU can do, kept only where its pictures are alike."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from studio.engines.components import COMPONENTS, DENOISER, VAE_DECODER, VAE_ENCODER
from studio.errors import SettingsError
from studio.report import Report, silent
from triton_models.diffusion.manifest import Engine

ONNX_RUNTIME = "onnxruntime"
OPENVINO = "openvino"
FLAVOURS = (ONNX_RUNTIME, OPENVINO)
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
# What OpenVINO computes; ONNX Runtime has the rest. In float32 only the denoiser gains by it. The text
# encoder takes milliseconds, and its rounding to bfloat16 would steer the whole walk.
OPENVINO_HAS = {
    "bf16": (VAE_ENCODER.name, DENOISER.name, VAE_DECODER.name),
    "fp32": (DENOISER.name,),
}
MAX_DIFFERENCE = 4.0  # mean over the pixels of a picture, of 255
TRIAL_SECONDS = 900
TRIAL = 3  # of the trial itself: raise it and every checkpoint is tried again

Judge = Callable[[Path, int, Report], "Likeness"]


@dataclass(frozen=True)
class Likeness:
    """How far bfloat16 pictures are from the float32 ones: median of the mean differences, of 255."""

    difference: float
    failure: str = ""

    @property
    def passes(self) -> bool:
        """Whether an artist would take the two for the same picture."""
        return not self.failure and self.difference <= MAX_DIFFERENCE


@dataclass(frozen=True)
class CpuChoice:
    """The CPU's engine and the reason for it."""

    flavour: str
    precision: str
    reason: str

    @property
    def label(self) -> str:
        """Such as ``openvino bf16``."""
        return f"{self.flavour} {self.precision}"


def flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets that the CPU names; empty where it cannot be asked."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def model_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the CPU calls itself."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """The cores that this process may use, hyper-threads counted once."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 2) // 2)
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        try:
            siblings.add((topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def installed(flavour: str) -> str:
    """The version of a CPU engine's package; empty where it is not installed. Imports nothing."""
    try:
        return metadata.version(flavour)
    except metadata.PackageNotFoundError:
        return ""


def choose(
    wanted: str,
    model_folder: Path,
    cache_dir: Path,
    threads: int,
    report: Report = silent,
    *,
    cpu_flags: frozenset[str] | None = None,
    judge: Judge | None = None,
    version_of: Callable[[str], str] = installed,
) -> CpuChoice:
    """The CPU's engine for one exported checkpoint. ``wanted`` is ``auto`` or a flavour.

    bfloat16 is tried on a few small pictures, once per checkpoint, and the verdict is remembered in
    ``cache_dir``. Raises SettingsError for a flavour that is not installed.
    """
    if wanted == ONNX_RUNTIME:
        return CpuChoice(ONNX_RUNTIME, "fp32", "asked for by --engine")
    if not version_of(OPENVINO):
        if wanted == OPENVINO:
            raise SettingsError("OpenVINO is not installed.", hint="Use --engine auto.")
        return CpuChoice(ONNX_RUNTIME, "fp32", "OpenVINO does not exist for this machine")
    found = flags() if cpu_flags is None else cpu_flags
    if not found.intersection(BF16_FLAGS):
        return CpuChoice(OPENVINO, "fp32", "this CPU has no bfloat16 instructions")
    likeness = _remembered(model_folder, cache_dir, threads, report, judge or try_picture)
    if likeness.failure:
        return CpuChoice(OPENVINO, "fp32", f"bfloat16 failed its trial: {likeness.failure}")
    measured = f"its pictures differ by {likeness.difference:.1f} of 255 from float32"
    if not likeness.passes:
        reason = f"bfloat16 was tried and {measured}; {MAX_DIFFERENCE:.0f} is the limit"
        return CpuChoice(OPENVINO, "fp32", reason)
    return CpuChoice(OPENVINO, "bf16", f"this CPU has bfloat16 instructions, and {measured}")


def engines(choice: CpuChoice) -> dict[str, tuple[Engine, ...]]:
    """The engines of every component under ``choice``; ONNX Runtime, which runs everywhere, comes last."""
    chosen: dict[str, tuple[Engine, ...]] = {}
    for component in (component.name for component in COMPONENTS):
        file = f"{component}.onnx"
        plain = Engine(ONNX_RUNTIME, file, "fp32")
        faster = Engine(choice.flavour, file, choice.precision)
        gains = choice.flavour == OPENVINO and component in OPENVINO_HAS[choice.precision]
        chosen[component] = (faster, plain) if gains else (plain,)
    return chosen


def try_picture(model_folder: Path, threads: int, report: Report) -> Likeness:
    """Draw a few small pictures in float32 and in bfloat16, in a process of its own: a runtime that crashes
    on this CPU must not take the studio with it."""
    report("Trying bfloat16 on a few pictures (once per checkpoint)", None)
    command = [sys.executable, "-m", "studio.engines.likeness", str(model_folder), str(threads)]
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
        return Likeness(float(done.stdout))
    except subprocess.TimeoutExpired:
        return Likeness(0.0, f"it took longer than {TRIAL_SECONDS} s")
    except ValueError:
        said = done.stderr.strip().splitlines()
        return Likeness(0.0, said[-1] if said else f"it ended with status {done.returncode}")


def _remembered(model_folder: Path, cache_dir: Path, threads: int, report: Report, judge: Judge) -> Likeness:
    file = cache_dir / "likeness" / f"{model_folder.name}.json"
    key = f"{TRIAL} {model_name()} {installed(OPENVINO)} {sorted(flags())}"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["key"] == key:
            return Likeness(float(known["difference"]), str(known["failure"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    likeness = judge(model_folder, threads, report)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"key": key, "difference": likeness.difference, "failure": likeness.failure})
        file.write_text(text, encoding="utf-8")
    except OSError:
        pass  # it is tried again at the next start
    return likeness

"""What the studio makes of a machine, and which of the engines made earlier it takes up again."""

from __future__ import annotations

import io
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from studio import machine
from studio.engines.cache import EngineCache
from studio.engines.entry import Facts, plan_name
from studio.engines.flavour import Installed
from studio.engines.key import EngineKey, Profile, Target
from studio.engines.workshop import Workshop
from studio.errors import SettingsError
from studio.gpu import GIB, Detection, Gpu
from studio.machine import Machine
from studio.prepare import prepare
from studio.report import silent
from studio.settings import Settings
from studio.terminal import Terminal

RTX_4090 = Gpu(
    index=0,
    name="NVIDIA GeForce RTX 4090",
    uuid="GPU-aaaaaaaa",
    capability=(8, 9),
    memory_total=24 * GIB,
    memory_free=23 * GIB,
    driver="580.65.06",
    cuda=(13, 0),
)
RTX = {"tensorrt-rtx": Installed("1.7.1.116", 13)}


def look(found: Detection, installed: dict[str, Installed] | None = None, **settings: object) -> Machine:
    chosen = Settings.load({"runtime": "embedded", **settings}, {})
    return machine.look(chosen, lambda: found, lambda: installed or {})


@pytest.mark.usefixtures("embedded_platform")
def test_a_machine_without_a_gpu_draws_on_the_cpu() -> None:
    here = look(Detection((), ("no NVIDIA driver is installed",)))
    assert (here.gpu, here.engine.flavour, here.runtime) == (None, "", "embedded")
    assert "no NVIDIA driver is installed" in str(here)


@pytest.mark.usefixtures("embedded_platform")
def test_a_gpu_is_used_and_its_engine_offered() -> None:
    here = look(Detection((RTX_4090,)))
    assert here.gpu == RTX_4090
    assert here.engine.flavour == "tensorrt-rtx"
    assert "launcher.py install tensorrt-rtx" in here.engine.missing
    assert look(Detection((RTX_4090,)), RTX).engine.missing == ""


@pytest.mark.usefixtures("embedded_platform")
def test_a_cpu_engine_leaves_the_gpu_alone() -> None:
    assert look(Detection((RTX_4090,)), RTX, engine="onnxruntime").gpus == ()


@pytest.mark.usefixtures("embedded_platform")
def test_all_gpus_are_used_when_asked_for() -> None:
    second = replace(RTX_4090, index=1, uuid="GPU-bbbbbbbb")
    assert look(Detection((RTX_4090, second)), RTX, gpu="all").gpus == (RTX_4090, second)


def test_an_engine_that_is_not_installed_is_refused_with_the_command_that_brings_it() -> None:
    with pytest.raises(SettingsError) as refusal:
        look(Detection((RTX_4090,)), engine="tensorrt-rtx")
    assert "launcher.py install tensorrt-rtx" in refusal.value.hint


@pytest.fixture
def cache(exported: Path, exported_fp16: Path, tmp_path: Path) -> Path:
    """A cache with the bundled checkpoint in both precisions."""
    for folder in (exported, exported_fp16):
        shutil.copytree(folder, tmp_path / "onnx" / folder.name)
    return tmp_path


def keep(cache: EngineCache, key: EngineKey, rejected: str = "") -> None:
    with cache.alone(key, silent, threading.Event()), cache.staging(key) as folder:
        (folder / plan_name(key)).write_bytes(b"plan")
        entry = cache.keep(folder, key, Facts(gpu="RTX 4090", driver=RTX_4090.driver, build_seconds=1.0))
    if rejected:
        cache.note(entry, rejected=rejected)


@pytest.mark.usefixtures("embedded_platform")
def test_engines_made_earlier_are_taken_up_again(cache: Path, exported_fp16: Path) -> None:
    here = look(Detection((RTX_4090,)), RTX)
    engines = EngineCache(cache)
    folder = cache / "onnx" / exported_fp16.name
    made = Workshop(engines, Target.of(RTX_4090, here.engine), RTX_4090)
    *_, denoiser, decoder = made.orders(folder, Profile.fixed(1, 32, 32))
    keep(engines, denoiser.key)
    keep(engines, replace(denoiser.key, profile=Profile.fixed(1, 64, 64)))  # of another size
    keep(engines, replace(denoiser.key, capability="8.6"))  # of another machine
    keep(engines, replace(denoiser.key, onnx="0" * 64))  # of another checkpoint
    keep(engines, decoder.key, rejected="it is slower")
    settings = Settings.load({"cache_dir": cache, "engine": "auto", "runtime": "embedded"}, {})
    ready = prepare(settings, replace(here), Terminal(io.StringIO()))
    assert ready.workshop is not None
    assert ready.usual == Profile.fixed(1, 32, 32)
    first = [engine for engine in ready.engines["denoiser"] if engine.flavour == "tensorrt-rtx"]
    assert sorted(engine.height[0] for engine in first if engine.height) == [32, 64]
    assert ready.engines["denoiser"][: len(first)] == tuple(first)
    assert ready.engines["denoiser"][-1].label == "onnxruntime fp32"
    assert {engine.flavour for engine in ready.engines["vae_decoder"]} <= {"onnxruntime", "openvino"}

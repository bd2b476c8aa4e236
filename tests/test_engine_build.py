"""Building engines: real TensorRT-RTX on the CPU, and every other TensorRT through a stand-in module.

The stand-in (``fake_tensorrt/``) has each version's names and no others, so the real builder program meets
what it would meet there, and its faults.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from studio.checkpoint import resolve
from studio.engines import trial
from studio.engines.build import build
from studio.engines.builder.progress import Progress
from studio.engines.cache import EngineCache
from studio.engines.components import VAE_DECODER
from studio.engines.entry import Entry, Unfit
from studio.engines.export import export
from studio.engines.flavour import TENSORRT, TENSORRT_RTX, installed
from studio.engines.key import EngineKey, Profile, Target
from studio.engines.order import Order, orders
from studio.engines.trial import Difference
from studio.errors import BuildCancelled, BuildError, CacheError
from studio.gpu import GIB, Gpu
from tests.patience import eventually
from triton_models.diffusion.manifest import Engine

FAKE = Path(__file__).parent / "fake_tensorrt"
GPU = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", (8, 9), 24 * GIB, 20 * GIB, "580.95", (13, 0))
VERSIONS = {"8.6": "8.6.0", "10": "10.13.3.9", "11": "11.3.0.99"}
SHAPES = {"latents": ((1, 4, 64, 64),) * 3}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engine_cache")


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The builder meets the stand-in for TensorRT 11; setenv FAKE_TRT and FAKE_TRT_FAULT change it."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_TRT", "11")
    return monkeypatch


@pytest.fixture
def order(tmp_path: Path) -> Order:
    (tmp_path / "vae_decoder.onnx").write_bytes(b"graph")
    target = Target(TENSORRT, VERSIONS["11"], "8.9", "fp16", "NVIDIA GeForce RTX 4090 24 GB")
    key = EngineKey.of(VAE_DECODER, tmp_path / "vae_decoder.onnx", target, Profile.fixed(1, 64, 64))
    return Order(VAE_DECODER, tmp_path, key, SHAPES, "test")


def asked(entry: Entry) -> dict[str, Any]:
    """How the stand-in was asked to build."""
    content: dict[str, Any] = json.loads(entry.plan.read_text())
    return content


def version(order: Order, name: str) -> Order:
    return replace(order, key=replace(order.key, version=VERSIONS[name]))


def leftovers(cache: EngineCache) -> list[str]:
    return [path.name for path in cache.plans.iterdir() if path.is_dir()]


# -- one builder over every version --------------------------------------------------------------------


def test_tensorrt_8_takes_the_flag_and_keeps_the_samplers_arithmetic_in_float32(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch
) -> None:
    tensorrt.setenv("FAKE_TRT", "8.6")
    plan = asked(build(version(order, "8.6"), cache))
    assert plan["network_flags"] == ["EXPLICIT_BATCH"]
    assert plan["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]  # and not TF32
    assert plan["pinned"] == ["/update/Mul", "/guide/Sum"]  # not the integers, not the UNet
    assert plan["tactics"] == ["EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"]
    assert not plan["monitored"]


@pytest.mark.parametrize(
    ("name", "flags"), [("10", ["EXPLICIT_BATCH", "STRONGLY_TYPED"]), ("11", ["STRONGLY_TYPED"])]
)
def test_later_versions_are_strongly_typed_and_need_no_flag(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch, name: str, flags: list[str]
) -> None:
    tensorrt.setenv("FAKE_TRT", name)
    plan = asked(build(version(order, name), cache))
    assert plan["network_flags"] == flags
    assert (plan["flags"], plan["pinned"]) == ([], [])
    assert plan["monitored"]
    assert plan["inputs"] == {"latents": [1, 4, 64, 64], "timestep": [1]}  # one size: fixed, no profile
    assert plan["profiles"] == []


def test_level_refit_and_ranges_reach_the_builder(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch
) -> None:
    wide = {"latents": ((1, 4, 32, 32), (1, 4, 96, 96), (4, 4, 96, 96))}
    plan = asked(build(replace(order, key=replace(order.key, level=5, refit=True), shapes=wide), cache))
    assert (plan["level"], plan["flags"]) == (5, ["REFIT_IDENTICAL"])
    assert plan["profiles"] == [{"latents": [list(shape) for shape in wide["latents"]]}]


def test_refit_where_the_version_lacks_it_is_refused(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch
) -> None:
    tensorrt.setenv("FAKE_TRT", "8.6")
    old = version(replace(order, key=replace(order.key, refit=True)), "8.6")
    with pytest.raises(BuildError, match="has no REFIT_IDENTICAL"):
        build(old, cache)


def test_kernel_timings_are_kept_for_the_next_build(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch
) -> None:
    assert asked(build(order, cache))["timing"] == ""
    deeper = replace(order, key=replace(order.key, level=4))
    assert asked(build(deeper, cache))["timing"] == "+"
    (timings,) = (cache.root / "timings").iterdir()
    timings.write_bytes(b"of another GPU")
    assert asked(build(replace(order, key=replace(order.key, level=5)), cache))["timing"] == ""


def test_the_second_build_is_a_hit(order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch) -> None:
    first = build(order, cache)
    tensorrt.setenv("FAKE_TRT_FAULT", "it must not be built again")
    assert build(order, cache) == first


# -- faults --------------------------------------------------------------------------------------------


def on_gpu(order: Order) -> Order:
    return replace(order, gpu=GPU)


def test_out_of_memory_is_tried_again_with_half_the_workspace(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch
) -> None:
    tensorrt.setenv("FAKE_TRT_FAULT", "oom:4000")
    with pytest.raises(BuildError, match="built but does not run"):  # the stand-in's plan is none
        build(on_gpu(order), cache, refresh=lambda gpu: gpu)
    log = cache.log_file(order.key).read_text()
    assert "trying again with 7679 MiB" in log
    assert "trying again with 3839 MiB" in log
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("oom:0", "The GPU has too little free memory"),
        ("No importer registered for op: Einsum", "an operation that TensorRT does not know"),
        ("CUDA initialization failure with error: 35", "driver is too old"),
        ("Cuda Runtime (unspecified launch failure)", "The GPU failed during the build"),
        ("something unheard of", "TensorRT could not build this engine"),
        ("kill", "the builder was killed, most likely because the computer ran out of memory"),
    ],
)
def test_a_failed_build_is_one_sentence_with_the_log_kept(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch, fault: str, sentence: str
) -> None:
    tensorrt.setenv("FAKE_TRT_FAULT", fault)
    with pytest.raises(BuildError, match=sentence) as caught:
        build(replace(order, gpu=GPU), cache, refresh=lambda gpu: gpu)
    assert str(cache.log_file(order.key)) in caught.value.hint
    assert cache.log_file(order.key).is_file()
    assert "slower engine" in caught.value.state
    assert leftovers(cache) == []


def test_a_damaged_onnx_file_is_told(order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch) -> None:
    order.onnx.write_bytes(b"not a graph")
    with pytest.raises(BuildError, match="cannot read this ONNX file"):
        build(order, cache)


@pytest.mark.parametrize("name", ["8.6", "11"])
def test_a_build_can_be_cancelled(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch, name: str
) -> None:
    """TensorRT 8 cannot be asked to stop, so its process ends."""
    tensorrt.setenv("FAKE_TRT", name)
    tensorrt.setenv("FAKE_TRT_FAULT", "slow")
    cancel = threading.Event()
    threading.Timer(0.8, cancel.set).start()
    with pytest.raises(BuildCancelled, match="was cancelled"):
        build(version(order, name), cache, cancel=cancel)
    assert leftovers(cache) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_builder_stands_still_while_someone_draws(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch
) -> None:
    tensorrt.setenv("FAKE_TRT_FAULT", "slow")
    drawing, cancel = threading.Event(), threading.Event()

    def draw_it_out() -> None:
        with contextlib.suppress(BuildCancelled):
            build(order, cache, cancel=cancel, busy=drawing.is_set)

    work = threading.Thread(target=draw_it_out)
    work.start()
    assert eventually(lambda: "S" in builder_states() or "R" in builder_states())
    drawing.set()
    assert eventually(lambda: builder_states() == {"T"})
    drawing.clear()
    assert eventually(lambda: "T" not in builder_states())
    drawing.set()
    assert eventually(lambda: builder_states() == {"T"})
    cancel.set()  # also out of its sleep
    work.join(timeout=20)
    assert builder_states() == set()


def builder_states() -> set[str]:
    """The states of our builders: S sleeps, R runs, T stands still."""
    states = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"studio.engines.builder" in (process / "cmdline").read_bytes():
                state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
                states |= {state} if int(parent) == os.getpid() else set()
        except OSError:
            continue
    return states


def test_another_version_than_the_keys_is_not_kept(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BuildError, match=r"has tensorrt 11.3.0.99 and 10.13.3.9 was expected"):
        build(version(order, "10"), cache)
    assert leftovers(cache) == []


def test_a_tensorrt_that_is_not_there_is_told(order: Order, cache: EngineCache) -> None:
    with pytest.raises(BuildError, match="tensorrt is not installed"):
        build(order, cache)
    with pytest.raises(BuildError, match="could not start"):
        build(order, cache, python=["/nonexistent/python"])


def test_a_gpu_that_vanished_is_told(order: Order, cache: EngineCache) -> None:
    with pytest.raises(BuildError, match="RTX 4090 has vanished"):
        build(on_gpu(order), cache, refresh=lambda gpu: None)


def test_a_gpu_that_another_process_fills_is_told_before_anything_starts(
    order: Order, cache: EngineCache
) -> None:
    with pytest.raises(BuildError, match=r"needs 1\.0 GB of GPU memory and 0\.5 GB are free"):
        build(on_gpu(order), cache, refresh=lambda gpu: replace(gpu, memory_free=GIB // 2))
    assert not cache.log_file(order.key).exists()


def test_a_disk_that_fills_in_mid_build_leaves_nothing(
    order: Order, cache: EngineCache, tensorrt: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: writing the plan fails half-way."""
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -f 0\nexec "{sys.executable}" "$@" 2>/dev/null\n')
    limited.chmod(0o755)
    tensorrt.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with pytest.raises(BuildError, match=r"could not be written: File too large"):
        build(order, cache, python=[str(limited)])
    assert leftovers(cache) == []


def test_a_disk_with_too_little_room_is_told_first(order: Order, cache: EngineCache) -> None:
    huge = order.onnx.with_name("vae_decoder.onnx.data")
    with huge.open("wb") as file:
        file.truncate(1 << 43)  # sparse
    with pytest.raises(CacheError, match="GB of disk"):
        build(order, cache)
    assert leftovers(cache) == []


# -- the trial -----------------------------------------------------------------------------------------


@pytest.fixture
def tried(exported: Path) -> Order:
    """An order of the bundled checkpoint's, for trials with ONNX Runtime."""
    target = Target("onnxruntime", "1", "cpu", "fp32")
    return orders(exported, target, Profile.fixed(1, 8, 8))[3]


def plain(file: Path | str) -> Engine:
    return Engine("onnxruntime", str(file), "fp32")


def test_engines_are_timed_and_compared_in_a_process_of_its_own(tried: Order, cache: EngineCache) -> None:
    outcome = trial.run(tried, [plain(tried.onnx), plain(tried.onnx)], cache)
    assert len(outcome.milliseconds) == 2
    assert all(each > 0 for each in outcome.milliseconds)
    assert outcome.differences == (Difference(0.0, 0.0),)


def test_a_plan_that_cannot_be_loaded_is_unfit(tried: Order, cache: EngineCache, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(tried.onnx.read_bytes()[:1000])
    for file, words in ((truncated, "could not load"), (tmp_path / "nowhere", "missing")):
        with pytest.raises(Unfit, match=words):
            trial.run(tried, [plain(file)], cache)


def test_a_trial_that_crashes_or_hangs_is_ended(tried: Order, cache: EngineCache, tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="did not answer"):
        trial.run(tried, [plain(tried.onnx)], cache, seconds=0.05)
    with pytest.raises(Unfit, match=r"crashed the process that tried it \(signal 11\)"):
        trial.run(tried, [plain(tried.onnx)], cache, ["/bin/sh", "-c", "kill -SEGV $$"])


# -- progress ------------------------------------------------------------------------------------------


def test_nested_phases_become_one_fraction_that_never_falls() -> None:
    progress = Progress("tensorrt", lambda message: None)
    seen: list[float] = []

    def note() -> None:
        assert progress.fraction is not None
        seen.append(progress.fraction)

    assert progress.fraction is None
    progress.begin("Building engine", 6)
    for _subgraph in range(2):  # the second time its phases begin anew
        progress.begin("Building engine from subgraph", 1)
        progress.begin("Computing profile costs", 5)
        progress.begin("Timing tactics", 3)
        progress.begin("Timing graph nodes", 10)
        for step in range(10):
            progress.step("Timing graph nodes", step)
            note()
        progress.end("Timing graph nodes")
    progress.end("Building engine")
    note()
    assert seen == sorted(seen)
    assert 0.5 < seen[9] < 0.9
    assert seen[-1] == 1.0


# -- the real thing ------------------------------------------------------------------------------------


@pytest.fixture
def rtx_version() -> str:
    found = installed().get(TENSORRT_RTX)
    if found is None:
        pytest.skip("TensorRT-RTX is not installed")
    return found.version


@pytest.mark.tensorrt
@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
def test_real_tensorrt_rtx_builds_the_bundled_checkpoint(
    exported_fp16: Path, cache: EngineCache, rtx_version: str, capability: str
) -> None:
    target = Target(TENSORRT_RTX, rtx_version, capability, "fp16")
    for order in orders(exported_fp16, target, Profile.fixed(1, 32, 32)):
        told: list[float | None] = []
        entry = build(order, cache, lambda _, fraction, told=told: told.append(fraction))  # type: ignore[misc]
        assert entry.size > 1_000_000
        known = [fraction for fraction in told if fraction is not None]  # unknown while the graph is read
        assert known == sorted(known)
        assert known[-1] == 1.0
        assert len(known) >= 3
        assert cache.look_up(order.key) == entry
    assert len(cache.entries()) == 4


@pytest.mark.tensorrt
def test_real_tensorrt_rtx_builds_what_left_float16_in_bfloat16(
    cache: EngineCache, rtx_version: str, tmp_path: Path
) -> None:
    target = Target(TENSORRT_RTX, rtx_version, "8.9", "fp16")
    checkpoint = resolve(str(tiny.beyond_float16(tmp_path / "tiny")))
    folder = export(checkpoint, tmp_path, precision="fp16", wide_precision=target.wide_precision)
    *_, decoder = orders(folder, target, Profile.fixed(1, 8, 8))
    assert build(decoder, cache).engine.precision == "bf16"


@pytest.mark.tensorrt
def test_a_real_build_over_a_range_of_sizes_and_its_cancelling(
    exported_fp16: Path, cache: EngineCache, rtx_version: str
) -> None:
    target = Target(TENSORRT_RTX, rtx_version, "8.9", "fp16")
    _, _, denoiser, decoder = orders(exported_fp16, target, Profile((1, 4), (16, 48), (16, 48)))
    built = build(decoder, cache).engine
    assert built.admits(1, 40, 24)
    assert not built.admits(3, 40, 24)  # pictures are decoded one by one
    cancel = threading.Event()
    with pytest.raises(BuildCancelled):
        build(denoiser, cache, lambda _, fraction: cancel.set() if fraction else None, cancel)
    assert leftovers(cache) == [decoder.key.name]


@pytest.mark.tensorrt
def test_real_tensorrt_rtx_refuses_hopper_and_nonsense_in_a_sentence(
    exported_fp16: Path, cache: EngineCache, rtx_version: str, tmp_path: Path
) -> None:
    hopper = orders(exported_fp16, Target(TENSORRT_RTX, rtx_version, "9.0", "fp16"), Profile.fixed(1, 32, 32))
    with pytest.raises(BuildError, match=r"has no engines for compute capability 9\.0"):
        build(hopper[0], cache)
    nonsense = replace(hopper[3], model_folder=tmp_path, key=replace(hopper[3].key, capability="8.9"))
    nonsense.onnx.write_bytes(b"\x00garbage")
    with pytest.raises(BuildError, match="cannot read this ONNX file"):
        build(nonsense, cache)

"""Engines on the CPU: alike in every runtime, chosen by size, and one standing in for another."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from triton_models.diffusion.component import Component, example
from triton_models.diffusion.denoise import Cancelled, Denoiser, Job, Step
from triton_models.diffusion.manifest import STATE_SLOTS, Engine, EngineSet, ModelInfo
from triton_models.diffusion.runners import Engines, EngineUnusable, Loaded, NoEngine
from triton_models.diffusion.runners.openvino import OpenVinoRunner
from triton_models.diffusion.samplers import Row
from triton_models.diffusion.timings import Timings

FLAVOURS = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
ONNX = Engine("onnxruntime", "denoiser.onnx", "fp32")
HAS_BF16 = (
    "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else False
)


@pytest.fixture(scope="module")
def info(exported: Path) -> ModelInfo:
    return ModelInfo.load(exported)


def engines(
    exported: Path, *listed: Engine, component: str = "denoiser", cache: Path | None = None
) -> EngineSet:
    return EngineSet(component, list(listed), str(exported), threads=2, cache_folder=str(cache or ""))


def job(info: ModelInfo, **changes: Any) -> Job:
    embeddings = np.random.default_rng(0).standard_normal((2, info.max_tokens, info.embedding_width))
    base = {
        "embeddings": embeddings.astype(np.float32),
        "seeds": [1],
        "sampler": "Euler a",
        "steps": 3,
        "guidance_scale": 5.0,
        "height": 8,
        "width": 16,
    }
    return Job(**{**base, **changes})


def run(info: ModelInfo, source: Any, asked: Job, timings: Timings | None = None) -> list[Step]:
    return list(Denoiser(info, source).run(asked, timings or Timings(), lambda: False))


def latents(steps: list[Step]) -> np.ndarray[Any, Any]:
    assert steps[-1].latents is not None
    return steps[-1].latents


@pytest.mark.parametrize(("flavour", "precision"), FLAVOURS)
def test_every_runtime_walks_alike(exported: Path, info: ModelInfo, flavour: str, precision: str) -> None:
    if precision == "bf16" and not HAS_BF16:
        pytest.skip("this CPU has no bfloat16 instructions")
    # Guidance of 5 would make nine times as much of what bfloat16's eight bits leave out.
    asked = job(info, guidance_scale=1.0) if precision == "bf16" else job(info)
    reference = latents(run(info, Engines(engines(exported, ONNX)), asked))
    timings = Timings()

    walked = latents(
        run(info, Engines(engines(exported, Engine(flavour, "denoiser.onnx", precision))), asked, timings)
    )

    assert timings.engine == f"{flavour} {precision}"
    tolerance = 0.05 if precision == "bf16" else 1e-4
    assert np.abs(walked - reference).mean() / np.abs(reference).mean() < tolerance


@pytest.mark.parametrize(("flavour", "precision"), FLAVOURS)
def test_update_is_exact_in_every_precision(
    exported: Path, info: ModelInfo, flavour: str, precision: str
) -> None:
    """What a sampler remembers must not be rounded to the network's precision, step after step."""
    if precision == "bf16" and not HAS_BF16:
        pytest.skip("this CPU has no bfloat16 instructions")
    runner = Engines(engines(exported, Engine(flavour, "denoiser.onnx", precision))).pick(1, 8, 8).runner
    start = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
    noise = np.random.default_rng(2).standard_normal((1, 4, 8, 8)).astype(np.float32)
    update = np.zeros((STATE_SLOTS, STATE_SLOTS + 2))
    update[0, 0], update[0, -1] = 0.7, 0.3
    row = Row(timestep=500.0, input_scale=1.0, update=update, denoised_scale=(1.0, 0.0), step=0)

    steps = runner.steps(start, job(info).embeddings[:1], np.eye(1, dtype=np.float32))
    for _ in range(2):
        steps.start(row, noise)
        seen = steps.wait().copy()

    once = np.float32(0.7) * start + np.float32(0.3) * noise
    assert np.allclose(seen, once, atol=1e-6)
    assert np.allclose(steps.latents(), np.float32(0.7) * once + np.float32(0.3) * noise, atol=1e-6)


def test_slices_give_the_pictures_of_one_batch(exported: Path, info: ModelInfo) -> None:
    asked = job(info, seeds=[1, 2, 3, 4, 5])
    at_once = run(info, Engines(engines(exported, ONNX)), asked)
    pairs = Engine("onnxruntime", "denoiser.onnx", "fp32", batch=(1, 2))
    single = Engine("onnxruntime", "denoiser.onnx", "fp32", batch=(1, 1))

    sliced = run(info, Engines(engines(exported, single, pairs)), asked)

    assert np.allclose(latents(sliced), latents(at_once), atol=1e-4)
    assert [(step.done, step.total) for step in sliced] == [(done, 9) for done in range(1, 10)]
    assert all(step.preview.shape == (5, 8, 16, 3) for step in sliced)


def test_engine_is_chosen_by_size(exported: Path) -> None:
    square = Engine("openvino", "denoiser.onnx", "fp32", batch=(1, 4), height=(32, 32), width=(32, 32))
    choice = Engines(engines(exported, square, ONNX))

    assert choice.pick(2, 32, 32).engine == square
    assert choice.pick(8, 32, 32).batch == 4
    assert choice.pick(2, 32, 64).engine == ONNX


def test_size_that_no_engine_admits_names_those_there_are(exported: Path) -> None:
    square = Engine("onnxruntime", "denoiser.onnx", "fp32", height=(32, 32), width=(32, 64))

    with pytest.raises(NoEngine, match="there are engines for 256 to 512 × 256"):
        Engines(engines(exported, square)).pick(1, 64, 32)


def test_an_engine_that_finds_no_room_is_loaded_once_the_others_are_gone(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that holds the engine of one size."""

    class OnGpu:
        pass

    loaded: list[weakref.ref[OnGpu]] = []

    def load(file: Path, *_: object) -> OnGpu:
        if any(ref() for ref in loaded):
            raise EngineUnusable("there is not enough free GPU memory for it")
        runner = OnGpu()
        loaded.append(weakref.ref(runner))
        return runner

    monkeypatch.setitem(sys.modules, "triton_models.diffusion.runners.tensorrt", SimpleNamespace(load=load))
    small, large = (
        Engine("tensorrt", "denoiser.onnx", "fp16", height=(side, side), width=(side, side))
        for side in (32, 64)
    )
    choice = Engines(engines(exported, small, large))
    for engine, side in ((small, 32), (large, 64), (small, 32)):
        assert choice.pick(1, side, side).engine == engine
    assert not choice.unusable
    assert len(loaded) == 3


def test_engine_that_does_not_load_gives_way_with_its_reason(exported: Path, tmp_path: Path) -> None:
    (exported / "damaged.onnx").write_bytes(b"garbage")
    bad = [
        Engine("onnxruntime", "damaged.onnx", "fp32"),
        Engine("openvino", "damaged.onnx", "fp32"),
        Engine("tensorrt", "missing.plan", "fp16"),
        Engine("mystery", "denoiser.onnx", "fp32"),
    ]
    choice = Engines(engines(exported, *bad, ONNX))

    assert choice.pick(1, 8, 8).engine == ONNX
    assert set(choice.unusable) == set(bad)
    assert "The engine tensorrt fp16 is not used: its file missing.plan is missing." in choice.warnings
    assert "The engine mystery fp32 is not used: this version of the studio" in " ".join(choice.warnings)
    with pytest.raises(EngineUnusable, match=r"missing\.plan is missing"):
        Engines(engines(exported, *bad)).pick(1, 8, 8)
    (exported / "damaged.onnx").unlink()


class _Overflowing:
    """Steps whose numbers leave the range."""

    ahead = 0

    def __init__(self, start: np.ndarray[Any, Any]) -> None:
        self._start = start

    def start(self, row: Row, noise: Any) -> None: ...

    def wait(self) -> np.ndarray[Any, Any]:
        return self._start

    def latents(self) -> np.ndarray[Any, Any]:
        return np.full_like(self._start, np.nan)


class _OneBadEngine:
    """Engines of which the first gives NaN and the rest are real."""

    warnings: tuple[str, ...] = ()

    def __init__(self, real: Engines) -> None:
        self._real = real
        self.bad = Engine("tensorrt", "denoiser.plan", "fp16")

    def pick(
        self, batch: int, height: int, width: int, without: Mapping[Engine, str] | None = None
    ) -> Loaded:
        if self.bad in (without or {}):
            return self._real.pick(batch, height, width)

        class Runner:
            def steps(self, start: Any, embeddings: Any, guidance: Any) -> _Overflowing:
                return _Overflowing(start)

        return Loaded(self.bad, Runner(), batch)  # type: ignore[arg-type]


def test_numbers_out_of_range_are_another_engines_turn(exported: Path, info: ModelInfo) -> None:
    real = Engines(engines(exported, ONNX))
    timings = Timings()

    drawn = run(info, _OneBadEngine(real), job(info), timings)

    assert np.array_equal(latents(drawn), latents(run(info, real, job(info))))
    assert timings.engine == "onnxruntime fp32"
    (warning,) = timings.warnings
    assert warning.startswith("The engine tensorrt fp16 is not used: its numbers left the range")


def test_walk_that_is_left_early_does_no_harm(exported: Path, info: ModelInfo) -> None:
    denoiser = Denoiser(info, Engines(engines(exported, ONNX)))
    walk: Iterator[Step] = denoiser.run(job(info, steps=20), Timings(), lambda: False)
    next(walk)
    del walk

    again = list(denoiser.run(job(info), Timings(), lambda: False))

    assert np.array_equal(latents(again), latents(run(info, Engines(engines(exported, ONNX)), job(info))))


def test_cancel_is_asked_before_every_step(exported: Path, info: ModelInfo) -> None:
    asked = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) == 3

    walk = Denoiser(info, Engines(engines(exported, ONNX))).run(job(info, steps=9), Timings(), cancelled)
    seen = []
    with pytest.raises(Cancelled):
        seen.extend(walk)

    assert len(asked) == 3


@pytest.mark.parametrize("component", ["text_encoder", "vae_encoder", "vae_decoder"])
def test_component_is_sliced_and_alike(exported: Path, info: ModelInfo, component: str) -> None:
    name, array = next(iter(example(component, info).items()))
    corners = {"vae_encoder": np.s_[:, :64, :64], "vae_decoder": np.s_[..., :8, :8]}
    corner = array[corners.get(component, np.s_[:])]
    varied = np.concatenate([corner, corner + 1, corner + 2]).astype(array.dtype)

    def outputs(engine: Engine) -> dict[str, Any]:
        return Component(engines(exported, engine, component=component)).run({name: varied})

    whole = outputs(Engine("onnxruntime", f"{component}.onnx", "fp32"))
    sliced = outputs(Engine("openvino", f"{component}.onnx", "fp32", batch=(1, 2)))

    assert whole.keys() == sliced.keys()
    for output, array in whole.items():
        assert array.dtype == sliced[output].dtype
        rounding = 1 if array.dtype == np.uint8 else 2e-3
        assert np.allclose(array.astype(float), sliced[output].astype(float), atol=rounding, rtol=1e-2)


def test_openvino_keeps_few_sizes_and_its_kernels_on_disk(
    exported: Path, info: ModelInfo, tmp_path: Path
) -> None:
    engine = Engine("openvino", "denoiser.onnx", "fp32")
    choice = Engines(engines(exported, engine, cache=tmp_path))
    denoiser = Denoiser(info, choice)
    for width in (8, 16, 24, 32, 40, 48):
        list(denoiser.run(job(info, width=width, steps=1), Timings(), lambda: False))

    runner = choice.pick(1, 8, 8).runner
    assert isinstance(runner, OpenVinoRunner)
    assert runner.sizes_kept <= 4
    assert len(list(tmp_path.glob("*.blob"))) == 6


CRAMPED = """
import resource, sys
from pathlib import Path
import numpy as np
from triton_models.diffusion.runners import EngineUnusable, onnxruntime, openvino
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
flavour, file = {"onnxruntime": onnxruntime, "openvino": openvino}[sys.argv[1]], Path(sys.argv[2])
runner = flavour.load(file, "fp32", 1, None)
small = {"latents": np.zeros((1, 4, 8, 8), np.float32)}
runner.run(small, ["image"])
try:
    runner.run({"latents": np.zeros((1, 4, 256, 256), np.float32)}, ["image"])
    raise SystemExit("it was not refused")
except EngineUnusable as refusal:
    assert "more memory than is free" in str(refusal), refusal
runner.run(small, ["image"])
"""


@pytest.mark.parametrize("flavour", ["onnxruntime", "openvino"])
def test_too_large_for_the_machine_is_refused_and_small_ones_go_on(exported: Path, flavour: str) -> None:
    subprocess.run([sys.executable, "-c", CRAMPED, flavour, str(exported / "vae_decoder.onnx")], check=True)


OFFLINE = """
import sys
import numpy as np
import socket
def refuse(*args, **kwargs): raise AssertionError("the network was touched")
socket.socket.connect = refuse
from pathlib import Path
from triton_models.diffusion.runners import openvino
runner = openvino.load(Path(sys.argv[1]), "fp32", 1, None)
runner.run({"latents": np.zeros((1, 4, 8, 8), np.float32)}, ["image"])
assert sys.modules["openvino_telemetry"] is None
"""


def test_openvino_is_silent(exported: Path, tmp_path: Path) -> None:
    """It neither phones home nor writes into the user's home."""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}

    subprocess.run(
        [sys.executable, "-c", OFFLINE, str(exported / "vae_decoder.onnx")], env=environment, check=True
    )

    assert list(tmp_path.rglob("*")) == []

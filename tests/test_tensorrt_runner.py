"""The TensorRT runner against a GPU that does nothing until it is waited for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from triton_models.diffusion.denoise import Cancelled, Denoiser, Job
from triton_models.diffusion.manifest import STATE_SLOTS, Engine, ModelInfo
from triton_models.diffusion.noise import Generator
from triton_models.diffusion.runners import Loaded
from triton_models.diffusion.runners.base import EngineUnusable
from triton_models.diffusion.runners.cuda import CudaError, Memory
from triton_models.diffusion.runners.plan import Plan
from triton_models.diffusion.runners.tensorrt import TensorRtRunner
from triton_models.diffusion.samplers import Row, table
from triton_models.diffusion.timings import Timings

LATENTS = (1, 4, 8, 8)
INFO = ModelInfo(
    name="test",
    family="sd1",
    digest="",
    prediction_type="epsilon",
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    train_timesteps=1000,
    timestep_spacing="",
    steps_offset=1,
    max_tokens=77,
    embedding_width=16,
    latent_channels=4,
    vae_scale_factor=8,
    default_width=64,
    default_height=64,
    preview_factors=[[0.1, 0.1, 0.1]] * 5,
)
Operation = Callable[[], None]


class LazyGpu:
    """Cuda's stand-in: work waits in a queue until somebody waits for it, as late as a GPU could be."""

    stream = 0

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.queue: list[Operation] = []
        self.done = 0
        self.captured = 0
        self._next = 1 << 20
        self._recording: list[Operation] | None = None

    def allocate(self, size: int) -> Memory:
        address, self._next = self._next, self._next + size + 4096
        self.memory[address] = np.zeros(size, np.uint8)
        return Memory(address, size)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.zeros(shape, dtype)

    def bytes_at(self, address: int, size: int) -> Any:
        base = max(start for start in self.memory if start <= address)
        return self.memory[base][address - base : address - base + size]

    def add(self, operation: Operation) -> None:
        (self.queue if self._recording is None else self._recording).append(operation)

    def upload(self, address: int, source: Any) -> None:
        target = self.bytes_at(address, source.nbytes)
        self.add(lambda: np.copyto(target, source.reshape(-1).view(np.uint8)))

    def download(self, target: Any, address: int) -> None:
        source = self.bytes_at(address, target.nbytes)
        self.add(lambda: np.copyto(target.reshape(-1).view(np.uint8), source))

    def move(self, target: int, source: int, size: int) -> None:
        self.add(lambda: np.copyto(self.bytes_at(target, size), self.bytes_at(source, size)))

    def mark(self) -> int:
        return len(self.queue)

    def wait(self, event: int) -> None:
        while self.done < event:
            self.queue[self.done]()
            self.done += 1

    def synchronize(self) -> None:
        self.wait(len(self.queue))

    def capture(self, enqueue: Operation) -> Operation:
        self._recording = operations = []
        enqueue()
        self._recording = None
        self.captured += 1
        return lambda: self.queue.extend(operations)


class Network:
    """TensorRT's engine and context in one, around a numpy function."""

    def __init__(self, gpu: LazyGpu, inputs: dict[str, Any], outputs: dict[str, Any], function: Any) -> None:
        self.tensors = inputs | outputs  # name → (shape with -1 where free, dtype, least first dimension)
        self.inputs = list(inputs)
        self.num_io_tensors = len(self.tensors)
        self._gpu = gpu
        self._function = function
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.inputs else "out"

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name][1]

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return [(self.tensors[name][2], *self.tensors[name][0][1:])] * 3

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        free = self.tensors[name][0]
        return len(free) == len(shape) and all(f in (-1, s) for f, s in zip(free, shape, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        free: tuple[int, ...] = self.tensors[name][0]
        rows = self._shapes[self.inputs[0]][0] if self.inputs[0] in self._shapes else -1
        return self._shapes.get(name) or tuple(rows if size == -1 else size for size in free)

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        views = {}
        for name, address in self._addresses.items():
            shape, dtype = self.get_tensor_shape(name), np.dtype(self.tensors[name][1])
            size = int(np.prod(shape)) * dtype.itemsize
            views[name] = self._gpu.bytes_at(address, size).view(dtype).reshape(shape)

        def run() -> None:
            results = self._function(**{name: views[name] for name in self.inputs})
            for name, result in results.items():
                views[name][...] = result

        self._gpu.add(run)
        return True


def plan(network: Network, **options: Any) -> Plan:
    trt = SimpleNamespace(
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), nptype=lambda dtype: dtype, __version__="0"
    )
    return Plan(trt, None, SimpleNamespace(last="no reason"), network, network, **options)


def unet(x: Any, timestep: Any, embeddings: Any) -> Any:
    return np.tanh(x) + 0.1 * embeddings.mean(axis=(1, 2))[:, None, None, None] + timestep / 1000


def denoise(
    state: Any,
    embeddings: Any,
    timestep: Any,
    input_scale: Any,
    guidance: Any,
    update: Any,
    denoised_scale: Any,
    noise: Any,
) -> dict[str, Any]:
    """The denoiser graph in numpy."""
    latents = state[0]
    predictions = unet(np.tile(latents * input_scale, (2, 1, 1, 1)), timestep, embeddings)
    output = np.einsum("nu,uchw->nchw", guidance, predictions)
    terms = np.concatenate([state, output[None], noise[None]])
    return {
        "next_state": np.einsum("ij,jnchw->inchw", update, terms),
        "denoised": denoised_scale[0] * latents + denoised_scale[1] * output,
    }


def denoiser(gpu: LazyGpu, function: Any = denoise) -> Network:
    state = (STATE_SLOTS, *LATENTS)
    f = np.float32
    inputs = {
        "state": (state, f, 5),
        "embeddings": ((2, 77, 16), f, 2),
        "timestep": ((1,), f, 1),
        "input_scale": ((1,), f, 1),
        "guidance": ((1, 2), f, 1),
        "update": ((STATE_SLOTS, STATE_SLOTS + 2), f, 5),
        "denoised_scale": ((2,), f, 2),
        "noise": (LATENTS, f, 1),
    }
    return Network(gpu, inputs, {"next_state": (state, f, 5), "denoised": (LATENTS, f, 1)}, function)


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected_walk(rows: tuple[Row, ...], latents: Any, embeddings: Any, guidance: Any, noises: Any) -> Any:
    state = np.zeros((STATE_SLOTS, *LATENTS), np.float32)
    state[0] = latents
    foreseen = []
    for row, noise in zip(rows, noises, strict=True):
        result = denoise(
            state,
            embeddings,
            np.float32([row.timestep]),
            np.float32([row.input_scale]),
            guidance,
            row.update.astype(np.float32),
            np.float32(row.denoised_scale),
            noise if row.draws_noise else np.zeros(LATENTS, np.float32),
        )
        state = result["next_state"].astype(np.float32)
        foreseen.append(result["denoised"])
    return state[0], foreseen


@pytest.mark.parametrize("own_graphs", [True, False])
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("sampler", ["DPM++ 2M SDE", "UniPC", "Heun"])
def test_a_walk_is_the_tables_whatever_is_in_flight(sampler: str, ahead: int, own_graphs: bool) -> None:
    gpu = LazyGpu()
    runner = TensorRtRunner(plan(denoiser(gpu), captures_itself=not own_graphs), gpu)  # type: ignore[arg-type]
    rows = table(sampler, INFO, 7).rows
    guidance = np.float32([[-6.0, 7.0]])
    for seed in (1, 2):  # the second walk uses the same buffers and graph
        latents, embeddings = random(*LATENTS, seed=seed), random(2, 77, 16, seed=seed)
        noises = [random(*LATENTS, seed=seed * 100 + i) for i in range(len(rows))]
        final, expected = expected_walk(rows, latents, embeddings, guidance, noises)
        steps = runner.steps(latents, embeddings, guidance)
        foreseen = []
        for i, row in enumerate(rows):
            steps.start(row, noises[i].copy() if row.draws_noise else None)
            if i >= ahead:
                foreseen.append(steps.wait().copy())
        foreseen.extend(steps.wait().copy() for _ in range(ahead))
        np.testing.assert_allclose(foreseen, expected, atol=1e-5)
        np.testing.assert_allclose(steps.latents(), final, atol=1e-5)
    assert gpu.captured == (1 if own_graphs else 0)


def test_without_guidance_a_guided_plan_gives_the_prompts_own_prediction() -> None:
    gpu = LazyGpu()
    runner = TensorRtRunner(plan(denoiser(gpu)), gpu)  # type: ignore[arg-type]
    rows = table("Euler", INFO, 3).rows
    latents, prompt = random(*LATENTS), random(1, 77, 16)
    steps = runner.steps(latents, prompt, np.eye(1, dtype=np.float32))
    for row in rows:
        steps.start(row, None)
        steps.wait()
    both, weights = np.concatenate([prompt, prompt]), np.float32([[0, 1]])
    final, _ = expected_walk(rows, latents, both, weights, [None] * 3)
    np.testing.assert_allclose(steps.latents(), final, atol=1e-5)


def test_a_walk_given_up_does_not_disturb_the_next() -> None:
    gpu = LazyGpu()
    runner = TensorRtRunner(plan(denoiser(gpu)), gpu)  # type: ignore[arg-type]
    rows, guidance = table("Euler", INFO, 4).rows, np.float32([[-1, 2]])
    latents, embeddings = random(*LATENTS), random(2, 77, 16)
    given_up = runner.steps(random(*LATENTS, seed=9), embeddings, guidance)
    given_up.start(rows[0], None)
    given_up.start(rows[1], None)
    steps = runner.steps(latents, embeddings, guidance)
    for row in rows:
        steps.start(row, None)
        steps.wait()
    final, _ = expected_walk(rows, latents, embeddings, guidance, [None] * 4)
    np.testing.assert_allclose(steps.latents(), final, atol=1e-5)


class OneEngine:
    """Stands for Engines: always this runner."""

    warnings: tuple[str, ...] = ()

    def __init__(self, runner: TensorRtRunner) -> None:
        self._runner = runner

    def pick(self, batch: int, height: int, width: int, without: Any = None) -> Loaded:
        return Loaded(Engine("tensorrt", "denoiser.plan", "fp16"), self._runner, 1)


@pytest.mark.parametrize("sampler", ["Euler a", "Heun"])
def test_the_denoiser_keeps_the_order_of_noise_and_steps_with_one_in_flight(sampler: str) -> None:
    gpu = LazyGpu()
    denoiser_of_studio = Denoiser(INFO, OneEngine(TensorRtRunner(plan(denoiser(gpu)), gpu)))  # type: ignore[arg-type]
    embeddings = random(2, 77, 16)
    job = Job(embeddings, [11], sampler, 5, 7.0, 8, 8)
    done = list(denoiser_of_studio.run(job, Timings(), lambda: False))
    rows = table(sampler, INFO, 5)
    noise = Generator(11)
    latents = np.float32(rows.initial[1]) * noise.randn(LATENTS)
    noises = [noise.randn(LATENTS) if row.draws_noise else None for row in rows.rows]
    final, _ = expected_walk(rows.rows, latents, embeddings, np.float32([[-6, 7]]), noises)
    assert [step.done for step in done] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(done[-1].latents, final, atol=1e-4)


def test_cancelling_leaves_nothing_running() -> None:
    gpu = LazyGpu()
    denoiser_of_studio = Denoiser(INFO, OneEngine(TensorRtRunner(plan(denoiser(gpu)), gpu)))  # type: ignore[arg-type]
    asked = iter([False, False, False, True])
    job = Job(random(2, 77, 16), [1], "Euler", 9, 7.0, 8, 8)
    with pytest.raises(Cancelled):
        list(denoiser_of_studio.run(job, Timings(), lambda: next(asked)))
    assert gpu.done == len(gpu.queue)


def test_latents_that_are_not_numbers_are_refused() -> None:
    gpu = LazyGpu()

    def overflow(**inputs: Any) -> dict[str, Any]:
        return {"next_state": inputs["state"], "denoised": inputs["noise"] * np.nan}

    runner = TensorRtRunner(plan(denoiser(gpu, overflow)), gpu)  # type: ignore[arg-type]
    steps = runner.steps(random(*LATENTS), random(2, 77, 16), np.float32([[0, 1]]))
    steps.start(table("Euler", INFO, 1).rows[0], None)
    with pytest.raises(EngineUnusable, match="not numbers"):
        steps.wait()


def decoder(gpu: LazyGpu, brightness: int = 7) -> Network:
    def decode(latents: Any) -> dict[str, Any]:
        return {
            "image": np.full((len(latents), 64, 64, 3), brightness)
            + np.arange(len(latents)).reshape(-1, 1, 1, 1)
        }

    inputs = {"latents": ((-1, 4, 8, 8), np.float32, 2)}
    return Network(gpu, inputs, {"image": ((-1, 64, 64, 3), np.uint8, 2)}, decode)


def test_fewer_rows_than_the_plan_takes_are_filled_up_and_cut_again() -> None:
    gpu = LazyGpu()
    runner = TensorRtRunner(plan(decoder(gpu)), gpu)  # type: ignore[arg-type]
    one = runner.run({"latents": random(1, 4, 8, 8)}, ["image"])["image"]
    assert one.shape == (1, 64, 64, 3)
    three = runner.run({"latents": random(3, 4, 8, 8)}, ["image"])["image"]
    assert three[:, 0, 0, 0].tolist() == [7, 8, 9]
    assert one.max() == 7  # the caller's to keep


def test_a_black_picture_is_refused() -> None:
    gpu = LazyGpu()

    def decode(latents: Any) -> dict[str, Any]:
        return {"image": np.zeros((len(latents), 64, 64, 3))}

    network = Network(
        gpu, {"latents": (LATENTS, np.float32, 1)}, {"image": ((1, 64, 64, 3), np.uint8, 1)}, decode
    )
    with pytest.raises(EngineUnusable, match="black"):
        TensorRtRunner(plan(network), gpu).run({"latents": random(*LATENTS)}, ["image"])  # type: ignore[arg-type]


def test_a_size_that_the_plan_does_not_take_is_refused() -> None:
    gpu = LazyGpu()
    runner = TensorRtRunner(plan(decoder(gpu)), gpu)  # type: ignore[arg-type]
    with pytest.raises(EngineUnusable, match="does not take latents of shape"):
        runner.run({"latents": random(2, 4, 9, 8)}, ["image"])


def test_the_gpus_failure_is_told() -> None:
    class Broken(LazyGpu):
        def synchronize(self) -> None:
            raise CudaError("cudaStreamSynchronize: an illegal memory access was encountered")

    gpu = Broken()
    with pytest.raises(EngineUnusable, match="illegal memory access"):
        TensorRtRunner(plan(decoder(gpu)), gpu).run({"latents": random(2, 4, 8, 8)}, ["image"])  # type: ignore[arg-type]


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt_rtx"])
def test_a_runtime_that_is_not_installed_is_told(flavour: str, tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) for name in ("cuda", "tensorrt")):
        pytest.skip("it is installed here")
    module = importlib.import_module(f"triton_models.diffusion.runners.{flavour}")
    with pytest.raises(EngineUnusable, match="its runtime is not installed"):
        module.load(tmp_path / "denoiser.plan", "fp16", 0, tmp_path)


@pytest.mark.parametrize("flavour", ["tensorrt_rtx"])
def test_the_real_runtime_says_why_it_cannot_open_a_plan(flavour: str, tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    pytest.importorskip("tensorrt_rtx_bindings")
    module = importlib.import_module(f"triton_models.diffusion.runners.{flavour}")
    (tmp_path / "denoiser.plan").write_bytes(b"not a plan")
    with pytest.raises(EngineUnusable, match=r"the GPU failed \(cuda.*\)|refused denoiser.plan: "):
        module.load(tmp_path / "denoiser.plan", "fp16", 0, tmp_path)

"""TensorRT 8.6 and later on the GPU: buffers made once, and the denoising step one CUDA graph."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..manifest import STATE_SLOTS
from ..samplers import Row
from .base import Array, EngineUnusable, Floats, Steps
from .cuda import Cuda, CudaError
from .plan import ALIGNMENT, Bound, Plan, deserialize, existing

SCALARS = ("timestep", "input_scale", "update", "denoised_scale")


def load(file: Path, precision: str, threads: int, cache_folder: Path | None) -> TensorRtRunner:
    """Open a plan that was built for this GPU. ``precision`` is the plan's own; nothing is cached."""
    with as_unusable():
        trt, cuda = importlib.import_module("tensorrt"), Cuda()
        log, runtime, engine = deserialize(trt, file)
        context = existing(engine.create_execution_context(), log)
        return TensorRtRunner(Plan(trt, runtime, log, engine, context), cuda)


class TensorRtRunner:
    """A Runner over one plan; TensorRT for RTX uses it too."""

    def __init__(self, plan: Plan, cuda: Cuda) -> None:
        self._plan = plan
        self._cuda = cuda
        self._bound: Bound | None = None
        self._loop: _Loop | None = None

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        filled = {name: _repeated_to(array, self._plan.least(name)) for name, array in inputs.items()}
        with as_unusable():
            if self._bound is None or not self._bound.fits(_shapes(filled)):
                self._bound = None  # what it held is free before more is taken
                self._bound = Bound(self._plan, self._cuda, _shapes(filled))
            for name, array in filled.items():
                self._bound.put(name, array)
            self._bound.enqueue()
            results = {name: self._bound.get(name)[:rows] for name in outputs}
        for array in results.values():
            _refuse_broken(array)
        return results

    def steps(self, latents: Floats, embeddings: Floats, guidance: Floats) -> Steps:
        missing = self._plan.least("embeddings") - len(embeddings)
        if missing > 0:  # the plan always guides, so it is given negative prompts that weigh nothing
            embeddings = np.concatenate([embeddings[:missing], embeddings])
            guidance = np.hstack([np.zeros((len(guidance), missing), np.float32), guidance])
        state = np.zeros((STATE_SLOTS, *latents.shape), np.float32)
        state[0] = latents
        inputs = {"state": state, "embeddings": embeddings, "guidance": guidance}
        shapes = {**_shapes(inputs), "noise": latents.shape}
        with as_unusable():
            if self._loop is None or not self._loop.bound.fits(shapes):
                self._loop = None
                self._loop = _Loop(Bound(self._plan, self._cuda, shapes, together=SCALARS))
            self._cuda.synchronize()  # a walk given up may still be running
            for name, array in inputs.items():
                self._loop.bound.put(name, array)
            return TensorRtSteps(self._loop)


class _Loop:
    """What walks of one size share: the graph of a step, and two sets of host buffers to use in turn."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self._graph = None if bound.plan.captures_itself else bound.cuda.capture(self._enqueue)
        self.turns = tuple(_Turn(bound) for _ in range(2))

    def step(self) -> None:
        """Put a step on the stream."""
        if self._graph is None:
            self._enqueue()
        else:
            self._graph()

    def _enqueue(self) -> None:
        bound = self.bound
        bound.enqueue()
        bound.cuda.move(bound.address["state"], bound.address["next_state"], bound.size("state"))


class _Turn:
    """The host's side of one step in flight."""

    def __init__(self, bound: Bound) -> None:
        self._packed = bound.cuda.pinned((len(SCALARS), ALIGNMENT // 4), np.float32)
        self._noise = bound.cuda.pinned(bound.shapes["noise"], np.float32)
        self.denoised = bound.cuda.pinned(bound.shapes["denoised"], np.float32)
        self.done: Any = None  # the event of its end

    def upload(self, bound: Bound, row: Row, noise: Floats | None) -> None:
        """Enqueue what the step needs to know."""
        scalars = ([row.timestep], [row.input_scale], row.update.ravel(), row.denoised_scale)
        for line, values in zip(self._packed, map(np.asarray, scalars), strict=True):
            line[: values.size] = values
        bound.cuda.upload(bound.address[SCALARS[0]], self._packed)
        if noise is not None:
            self._noise[...] = noise
            bound.cuda.upload(bound.address["noise"], self._noise)


class TensorRtSteps:
    """Steps whose state stays on the GPU.

    One step may be started while another runs (``ahead``), so that the GPU never waits for the host.
    """

    ahead = 1

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._started = 0
        self._ended = 0

    def start(self, row: Row, noise: Floats | None) -> None:
        assert self._started - self._ended <= self.ahead, "too many steps started"
        bound, turn = self._loop.bound, self._loop.turns[self._started % 2]
        with as_unusable():
            turn.upload(bound, row, noise)
            self._loop.step()
            bound.cuda.download(turn.denoised, bound.address["denoised"])
            turn.done = bound.cuda.mark()
        self._started += 1

    def wait(self) -> Floats:
        assert self._ended < self._started, "wait() without start()"
        turn = self._loop.turns[self._ended % 2]
        self._ended += 1  # also where it failed: the event is gone
        with as_unusable():
            self._loop.bound.cuda.wait(turn.done)
        _refuse_broken(turn.denoised)
        return turn.denoised

    def latents(self) -> Floats:
        with as_unusable():
            state: Floats = self._loop.bound.get("state")
        return np.array(state[0])


def _shapes(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _repeated_to(array: Array, rows: int) -> Array:
    """``array``, with its last row repeated until there are ``rows``."""
    return np.concatenate([array, *[array[-1:]] * (rows - len(array))]) if len(array) < rows else array


def _refuse_broken(output: Array) -> None:
    """Numbers that overflowed half precision end as NaN, and NaN as a black picture."""
    if output.dtype == np.uint8:
        if not output.any():
            raise EngineUnusable("its picture is black all over")
    elif not np.isfinite(output).all():
        raise EngineUnusable("its output holds values that are not numbers")


@contextlib.contextmanager
def as_unusable() -> Iterator[None]:
    """What is not installed, cannot be read or fails in CUDA says that the engine cannot be used."""
    try:
        yield
    except ImportError as error:
        raise EngineUnusable(f"its runtime is not installed ({error})") from error
    except OSError as error:
        raise EngineUnusable(f"it cannot be read ({error})") from error
    except CudaError as error:
        # Some failures end CUDA for this process, which only a new one gets over.
        raise EngineUnusable(f"the GPU failed ({error}); a restart of the studio may help") from error

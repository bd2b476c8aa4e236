"""ONNX Runtime: runs the exported graph as it is, at every size; on the GPU where it is built for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..samplers import Row
from . import memory
from .base import Array, EngineUnusable, Floats, StepBuffers, Steps

CUDA = "CUDAExecutionProvider"


def load(file: Path, precision: str, threads: int, cache_folder: Path | None) -> OnnxRuntimeRunner:
    """Open an ONNX file. ``precision`` is the file's own; nothing is cached."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin would fight the other stages and the browser, which are processes too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=_providers())
    except Exception as error:  # the runtime's own exceptions share no base class
        raise EngineUnusable(f"ONNX Runtime could not load {file.name}: {error}") from error
    return OnnxRuntimeRunner(session)


def _providers() -> list[str]:
    available = onnxruntime.get_available_providers()
    return [name for name in (CUDA, "CPUExecutionProvider") if name in available]


def _limit_memory(session: Any) -> None:
    if CUDA not in session.get_providers():  # CUDA reserves far more addresses than memory
        memory.limit_to_free()


class OnnxRuntimeRunner:
    """A Runner over one session."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._thread = ThreadPoolExecutor(1, "onnxruntime-step")

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        _limit_memory(self._session)
        with memory.said_plainly():
            return dict(zip(outputs, self._session.run(list(outputs), dict(inputs)), strict=True))

    def steps(self, latents: Floats, embeddings: Floats, guidance: Floats) -> Steps:
        _limit_memory(self._session)
        return OnnxRuntimeSteps(self._session, self._thread, StepBuffers(latents, embeddings, guidance))


class OnnxRuntimeSteps:
    """Steps over two bindings, each reading the state that the other writes."""

    ahead = 0

    def __init__(self, session: Any, thread: ThreadPoolExecutor, buffers: StepBuffers) -> None:
        self._session = session
        self._thread = thread  # because run() itself would hold the caller until the step is done
        self._buffers = buffers
        self._bindings = [self._bind(turn) for turn in range(2)]
        self._running: Future[None] | None = None

    def _bind(self, turn: int) -> Any:
        binding = self._session.io_binding()
        for name, array in (("state", self._buffers.states[turn]), *self._buffers.inputs.items()):
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        outputs = (("next_state", self._buffers.states[1 - turn]), ("denoised", self._buffers.denoised))
        for name, array in outputs:
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding

    def start(self, row: Row, noise: Floats | None) -> None:
        self._buffers.set_row(row, noise)
        binding = self._bindings[self._buffers.current]
        self._running = self._thread.submit(self._session.run_with_iobinding, binding)

    def wait(self) -> Floats:
        assert self._running is not None, "wait() without start()"
        with memory.said_plainly():
            self._running.result()
        self._buffers.swap()
        return self._buffers.denoised

    def latents(self) -> Floats:
        return self._buffers.latents()

"""CUDA's calls, against a runtime whose GPU memory is the host's."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from triton_models.diffusion.runners.cuda import Cuda, CudaError


class Runtime:
    """The functions of CUDA's Python bindings that Cuda calls, each answering (status, …)."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking, cudaHostAllocDefault = 1, 0
    cudaEventBlockingSync, cudaEventDisableTiming = 1, 2

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.freed: list[int] = []
        self.called: list[str] = []
        self.failing = ""

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.called.append(name)
            return (2, None) if name == self.failing else (0, *self.answer(name, arguments))

        return call

    def answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name in ("cudaMalloc", "cudaHostAlloc"):
            block = ctypes.create_string_buffer(b"\xff" * arguments[0], arguments[0])
            self.blocks[ctypes.addressof(block)] = block
            return (ctypes.addressof(block),)
        if name in ("cudaFree", "cudaFreeHost"):
            self.freed.append(arguments[0])
        if name == "cudaMemcpyAsync":
            ctypes.memmove(*arguments[:3])
        if name == "cudaMemsetAsync":
            ctypes.memset(*arguments[:3])
        if name == "cudaGetErrorString":
            return (b"out of memory",)
        return (7,)  # a stream, an event, a graph


def test_what_goes_up_comes_down() -> None:
    cuda = Cuda(Runtime())
    first, second = cuda.allocate(24), cuda.allocate(24)
    sent, received = cuda.pinned((2, 3), np.float32), cuda.pinned((2, 3), np.float32)
    assert not sent.any()
    sent[...] = np.arange(6).reshape(2, 3)
    cuda.upload(first.address, sent)
    cuda.move(second.address, first.address, 24)
    cuda.download(received, second.address)
    cuda.wait(cuda.mark())
    np.testing.assert_array_equal(received, sent)


def test_new_memory_is_zero() -> None:
    cuda = Cuda(Runtime())
    content = cuda.pinned((4,), np.uint8)
    content[...] = 9
    cuda.download(content, cuda.allocate(4).address)
    assert not content.any()


def test_memory_is_freed_with_what_owns_it() -> None:
    runtime = Runtime()
    cuda = Cuda(runtime)
    memory, array = cuda.allocate(8), cuda.pinned((8,), np.uint8)
    row = array.reshape(2, 4)[1]  # a view keeps the whole
    addresses = [memory.address, array.ctypes.data]
    del array, memory
    gc.collect()
    assert runtime.freed == addresses[:1]
    del row
    gc.collect()
    assert runtime.freed == addresses


def test_a_graph_is_captured_once_and_destroyed_with_its_launcher() -> None:
    runtime = Runtime()
    cuda = Cuda(runtime)
    launch = cuda.capture(lambda: None)
    launch()
    launch()
    assert runtime.called.count("cudaGraphInstantiate") == 1
    assert runtime.called.count("cudaGraphLaunch") == 2
    del launch
    gc.collect()
    assert "cudaGraphExecDestroy" in runtime.called


def test_a_capture_that_fails_leaves_the_stream_usable() -> None:
    runtime = Runtime()

    def fail() -> None:
        raise ValueError("the network refused")

    with pytest.raises(ValueError, match="the network refused"):
        Cuda(runtime).capture(fail)
    assert "cudaStreamEndCapture" in runtime.called


def test_a_failure_names_the_call_and_cudas_reason() -> None:
    runtime = Runtime()
    cuda = Cuda(runtime)
    runtime.failing = "cudaMalloc"
    with pytest.raises(CudaError, match="cudaMalloc: out of memory"):
        cuda.allocate(8)

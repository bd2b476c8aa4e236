"""The little of CUDA that an engine needs: memory, one stream, graphs. No torch."""

from __future__ import annotations

import ctypes
import importlib
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class CudaError(RuntimeError):
    """A CUDA call failed; the message names the call and CUDA's own words for it."""


class Cuda:
    """The current GPU, and one stream on which everything happens in order.

    Every address is a plain integer. Memory is freed with the object that owns it.
    """

    def __init__(self, runtime: Any = None) -> None:
        """``runtime`` is CUDA's bindings, imported where none are given. Raises ImportError and CudaError."""
        self._runtime = runtime or _import_runtime()
        self.stream = int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def allocate(self, size: int) -> Memory:
        """``size`` zeroed bytes on the GPU."""
        memory = Memory(int(self._call("cudaMalloc", max(size, 1))), size)
        weakref.finalize(memory, self._runtime.cudaFree, memory.address)
        self._call("cudaMemsetAsync", memory.address, 0, size, self.stream)
        return memory

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """A zeroed array in host memory that the GPU can copy from and to while the host goes on."""
        size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
        address = int(self._call("cudaHostAlloc", size, self._runtime.cudaHostAllocDefault))
        block: Any = (ctypes.c_char * size).from_address(address)
        weakref.finalize(block, self._runtime.cudaFreeHost, address)
        ctypes.memset(address, 0, size)
        return np.ndarray(shape, dtype, buffer=block)

    def upload(self, address: int, source: Array) -> None:
        """Enqueue a copy of a pinned array to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self.stream)

    def download(self, target: Array, address: int) -> None:
        """Enqueue a copy from the GPU into a pinned array."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self.stream)

    def move(self, target: int, source: int, size: int) -> None:
        """Enqueue a copy within the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def mark(self) -> Any:
        """An event that happens when all that is enqueued now is done."""
        # Blocking: otherwise whoever waits for it would keep a core busy all the while.
        flags = self._runtime.cudaEventDisableTiming | self._runtime.cudaEventBlockingSync
        event = self._call("cudaEventCreateWithFlags", flags)
        self._call("cudaEventRecord", event, self.stream)
        return event

    def wait(self, event: Any) -> None:
        """Return when ``event``, which ends with this, has happened."""
        try:
            self._call("cudaEventSynchronize", event)
        finally:
            self._call("cudaEventDestroy", event)

    def synchronize(self) -> None:
        """Return when all that was enqueued is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """What ``enqueue`` puts on the stream, as one graph; call the answer to launch it."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            enqueue()
        finally:
            graph = self._call("cudaStreamEndCapture", self.stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)

        def launch() -> None:
            self._call("cudaGraphLaunch", executable, self.stream)

        weakref.finalize(launch, self._runtime.cudaGraphExecDestroy, executable)
        return launch

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            status, *answer = getattr(self._runtime, name)(*arguments)
        except RuntimeError as error:  # there is no driver to call
            raise CudaError(f"{name}: {error}") from error
        if status != self._runtime.cudaError_t.cudaSuccess:
            words = self._runtime.cudaGetErrorString(status)[1]
            raise CudaError(f"{name}: {words.decode() if isinstance(words, bytes) else words}")
        return answer[0] if answer else None


class Memory:
    """A stretch of GPU memory."""

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size


def _import_runtime() -> Any:
    """CUDA's runtime bindings; cuda-python before 12.8 had them in another place. Raises ImportError."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError:
        return importlib.import_module("cuda.cudart")

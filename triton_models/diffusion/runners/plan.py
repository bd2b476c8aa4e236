"""A TensorRT plan at one size: its tensors with their memory, and what runs it on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array, EngineUnusable
from .cuda import Cuda

# TensorRT wants tensors to begin at multiples of this many bytes.
ALIGNMENT = 256


@dataclass(frozen=True)
class Plan:
    """A deserialized plan: TensorRT's objects, and how this flavour of it wants to be run."""

    trt: Any
    runtime: Any  # outlives the engine
    log: Any
    engine: Any
    context: Any
    captures_itself: bool = False  # whether it makes CUDA graphs of its own
    warmed: Callable[[], None] = lambda: None  # called after the first run at a size

    def names(self, mode: str) -> list[str]:
        """The tensors of ``mode`` INPUT or OUTPUT."""
        every = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        wanted = getattr(self.trt.TensorIOMode, mode)
        return [name for name in every if self.engine.get_tensor_mode(name) == wanted]

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's numpy type."""
        return np.dtype(self.trt.nptype(self.engine.get_tensor_dtype(name)))

    def least(self, name: str) -> int:
        """The smallest first dimension that an input takes."""
        fixed = int(self.engine.get_tensor_shape(name)[0])
        return fixed if fixed >= 0 else int(self.engine.get_tensor_profile_shape(name, 0)[0][0])


def deserialize(trt: Any, file: Path) -> tuple[Any, Any, Any]:
    """The log, runtime and engine of a plan. Raises EngineUnusable with TensorRT's own reason."""
    log = _make_log(trt)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise EngineUnusable(f"TensorRT {trt.__version__} refused {file.name}: {log.last}")
    return log, runtime, engine


def existing(context: Any, log: Any) -> Any:
    """``context``, unless there was no memory for it."""
    if context is None:
        raise EngineUnusable(f"there is not enough free GPU memory for it: {log.last}")
    return context


def _make_log(trt: Any) -> Any:
    """A TensorRT logger that remembers the last error instead of printing it."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "it gave no reason"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message.strip()

    return Log()


class Bound:
    """A plan at one size, warmed up. ``together`` names small inputs that share one stretch of memory."""

    def __init__(
        self, plan: Plan, cuda: Cuda, shapes: Mapping[str, tuple[int, ...]], together: tuple[str, ...] = ()
    ) -> None:
        self.plan = plan
        self.cuda = cuda
        self.shapes = self._settle(shapes)
        self._together = cuda.allocate(ALIGNMENT * max(len(together), 1))
        self._memory = {name: cuda.allocate(self.size(name)) for name in self.shapes if name not in together}
        self.address = {name: memory.address for name, memory in self._memory.items()}
        self.address |= {name: self._together.address + ALIGNMENT * i for i, name in enumerate(together)}
        self._host: dict[str, Array] = {}
        self.enqueue()
        cuda.synchronize()
        plan.warmed()

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether this is the size asked for."""
        return all(self.shapes[name] == tuple(shape) for name, shape in shapes.items())

    def _settle(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Tell the context the inputs' shapes; it answers those of all tensors."""
        for name, shape in shapes.items():
            if not self.plan.context.set_input_shape(name, shape):
                raise EngineUnusable(f"it does not take {name} of shape {tuple(shape)}")
        names = self.plan.names("INPUT") + self.plan.names("OUTPUT")
        return {name: tuple(int(d) for d in self.plan.context.get_tensor_shape(name)) for name in names}

    def size(self, name: str) -> int:
        """Bytes of a tensor."""
        return int(np.prod(self.shapes[name])) * self.plan.dtype(name).itemsize

    def host(self, name: str) -> Array:
        """The pinned array of a tensor."""
        if name not in self._host:
            self._host[name] = self.cuda.pinned(self.shapes[name], self.plan.dtype(name))
        return self._host[name]

    def put(self, name: str, array: Array) -> None:
        """Enqueue the upload of an input. Nothing may be under way for it yet."""
        self.host(name)[...] = array
        self.cuda.upload(self.address[name], self.host(name))

    def get(self, name: str) -> Array:
        """A copy of a tensor, as it is when all that was enqueued is done."""
        self.cuda.download(self.host(name), self.address[name])
        self.cuda.synchronize()
        return self.host(name).copy()

    def enqueue(self) -> None:
        """Enqueue the network."""
        for name, address in self.address.items():
            self.plan.context.set_tensor_address(name, address)
        if not self.plan.context.execute_async_v3(self.cuda.stream):
            raise EngineUnusable(f"TensorRT could not run it: {self.plan.log.last}")

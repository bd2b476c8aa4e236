"""TensorRT for RTX: its kernels are compiled on the artist's GPU, once, and kept on disk."""

from __future__ import annotations

import contextlib
import importlib
import os
from pathlib import Path
from typing import Any

from .cuda import Cuda
from .plan import Plan, deserialize, existing
from .tensorrt import TensorRtRunner, as_unusable


def load(file: Path, precision: str, threads: int, cache_folder: Path | None) -> TensorRtRunner:
    """Open an engine. Compiled kernels are read from and written to ``cache_folder``."""
    with as_unusable():
        trt, cuda = _import_bindings(), Cuda()
        log, runtime, engine = deserialize(trt, file)
        settings = engine.create_runtime_config()
        settings.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        kernels = _Kernels(settings, cache_folder / f"{file.stem}.kernels" if cache_folder else None)
        context = existing(engine.create_execution_context(settings), log)
        plan = Plan(trt, runtime, log, engine, context, captures_itself=True, warmed=kernels.save)
        return TensorRtRunner(plan, cuda)


class _Kernels:
    """The runtime cache of one engine. A file of another GPU, driver or version is ignored and replaced."""

    def __init__(self, settings: Any, file: Path | None) -> None:
        self._cache = settings.create_runtime_cache()
        self._file = file
        self._saved = b""
        if file is not None and file.is_file():
            self._saved = file.read_bytes()
            self._cache.deserialize(self._saved)
        settings.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what is new. The cache only saves time, so a full disk is no reason to stop."""
        content = bytes(self._cache.serialize())
        if self._file is None or content == self._saved:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            partial.write_bytes(content)
            partial.replace(self._file)
            self._saved = content


def _import_bindings() -> Any:
    """TensorRT for RTX under either of its names. Raises ImportError."""
    try:
        return importlib.import_module("tensorrt_rtx")
    except ModuleNotFoundError:
        return importlib.import_module("tensorrt_rtx_bindings")

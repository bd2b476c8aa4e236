"""ONNX to an engine's plan, over TensorRT 8.6, 10, 11 and TensorRT-RTX 1.

What a version has is asked of it, never inferred from its number.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from studio.engines.builder import log
from studio.engines.builder.log import Cancelled, Failure
from studio.engines.builder.progress import Progress

MIB = 2**20
LEAST_WORKSPACE = 256 * MIB
FLOAT32_NODES = ("/tile/", "/guide/", "/update/", "/denoised/")  # the sampler's arithmetic around the UNet
MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}


def import_tensorrt(flavour: str) -> Any:
    """The flavour's Python module. Raises Failure."""
    reason = ""
    for name in MODULES[flavour]:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = str(error)
    raise Failure(f"{flavour} is not installed for {sys.executable} ({reason}).")


def make_monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's callbacks onto ``progress``; answering False stops the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress.begin(name, steps)

        def step_complete(self, name: str, step: int) -> bool:
            progress.step(name, step)
            return not progress.cancelled.is_set()

        def phase_finish(self, name: str) -> None:
            progress.end(name)

    return Monitor()


class Build:
    """One network and how it is to be built."""

    def __init__(self, trt: Any, order: argparse.Namespace, progress: Progress) -> None:
        self.trt = trt
        self.order = order
        self.progress = progress
        self.errors: list[str] = []
        self.logger = log.make_logger(trt, self.errors)
        try:
            self.builder = trt.Builder(self.logger)
        except TypeError as error:  # what the bindings raise when createInferBuilder returns null
            why = self.errors[-1] if self.errors else "there is no GPU, or the NVIDIA driver is too old."
            raise Failure(log.sentence(self.errors, f"TensorRT cannot start: {why}")) from error
        self.strongly_typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(
            trt.BuilderFlag, "FP16"
        )
        self.network = self.builder.create_network(self._network_flags())
        self.monitor = make_monitor(trt, progress) if hasattr(trt, "IProgressMonitor") else None

    def _network_flags(self) -> int:
        known = self.trt.NetworkDefinitionCreationFlag
        wanted = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
        return sum(1 << int(getattr(known, name)) for name in wanted if hasattr(known, name))

    def parse(self) -> None:
        """Read the ONNX file and the weights beside it. Raises Failure."""
        parser = self.trt.OnnxParser(self.network, self.logger)
        self._prefer_native_normalization(parser)
        if not parser.parse_from_file(str(self.order.onnx)) or not self.network.num_outputs:
            self.errors += [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise Failure(log.sentence(self.errors, "TensorRT cannot read this ONNX file."))
        if not self.strongly_typed:
            self._pin_float32()

    def _prefer_native_normalization(self, parser: Any) -> None:
        """Before TensorRT 10, group norms became a plugin that needs cuDNN and reads fp16 weights as fp32."""
        flag = getattr(getattr(self.trt, "OnnxParserFlag", None), "NATIVE_INSTANCENORM", None)
        if flag is not None:
            parser.set_flag(flag)

    def _pin_float32(self) -> None:
        """Keep the sampler's arithmetic in float32 where the builder is free to choose otherwise."""
        for index in range(self.network.num_layers):
            layer = self.network.get_layer(index)
            outputs = [layer.get_output(slot) for slot in range(layer.num_outputs)]
            floats = [slot for slot, tensor in enumerate(outputs) if tensor.dtype == self.trt.float32]
            if layer.name.startswith(FLOAT32_NODES) and floats:
                layer.precision = self.trt.float32
                for slot in floats:
                    layer.set_output_type(slot, self.trt.float32)

    def config(self, workspace: int) -> Any:
        """The builder's configuration, with scratch memory of at most ``workspace`` bytes (0: no limit)."""
        trt, order = self.trt, self.order
        config = self.builder.create_builder_config()
        if workspace:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        config.builder_optimization_level = order.level
        if self.monitor is not None:
            config.progress_monitor = self.monitor
        if hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)
        if not self.strongly_typed:
            if order.precision != "fp32":
                self._set(config, order.precision.upper())
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        if hasattr(trt, "TacticSource") and hasattr(trt.TacticSource, "CUDNN"):
            own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
            # 8.6 would else use whichever cuBLAS and cuDNN it finds, and the engine would need them too.
            config.set_tactic_sources(sum(1 << int(source) for source in own))
        if order.refit:
            self._set(config, "REFIT_IDENTICAL")
        if order.compute:
            self._aim(config)
        self._set_shapes(config)
        return config

    def _set(self, config: Any, flag: str) -> None:
        if not hasattr(self.trt.BuilderFlag, flag):
            raise Failure(f"TensorRT {self.trt.__version__} has no {flag}: a newer one is needed.")
        config.set_flag(getattr(self.trt.BuilderFlag, flag))

    def _aim(self, config: Any) -> None:
        """Build for another compute capability than this machine's: TensorRT-RTX only."""
        known = getattr(self.trt, "ComputeCapability", None)
        wanted = "SM" + self.order.compute.replace(".", "")
        if known is None or not hasattr(known, wanted):
            raise Failure(f"{self.order.flavour} has no engines for compute capability {self.order.compute}.")
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(known, wanted), 0)

    def _set_shapes(self, config: Any) -> None:
        profile = self.builder.create_optimization_profile()
        ranges = dict(self.order.shape)
        ranged = False
        for index in range(self.network.num_inputs):
            tensor = self.network.get_input(index)
            shapes = ranges.pop(tensor.name, None)
            if -1 not in tuple(tensor.shape):
                continue
            if shapes is None:
                raise Failure(f"The input {tensor.name!r} has free dimensions: give its --shape.")
            if shapes[0] == shapes[2]:
                tensor.shape = shapes[0]  # a network of fixed sizes gets faster kernels than a profile does
            else:
                profile.set_shape(tensor.name, *shapes)
                ranged = True
        if ranges:
            raise Failure(f"The network has no input {', '.join(ranges)}.")
        if ranged:
            config.add_optimization_profile(profile)

    def serialized(self) -> tuple[Any, int]:
        """The plan, and the workspace it was built with: halved as often as memory runs out.

        Raises Failure and Cancelled.
        """
        workspace = self.order.workspace * MIB
        while True:
            config = self.config(workspace)
            cache = self._timing_cache(config)
            plan = self.builder.build_serialized_network(self.network, config)
            if self.progress.cancelled.is_set():
                raise Cancelled
            if plan is not None:
                self._keep_timing_cache(cache, config)
                return plan, workspace
            if not log.out_of_memory(self.errors) or workspace // 2 < LEAST_WORKSPACE:
                raise Failure(log.sentence(self.errors, "TensorRT could not build this engine."))
            workspace //= 2
            self.errors.clear()
            sys.stderr.write(f"Out of memory: trying again with {workspace // MIB} MiB of workspace\n")

    def _timing_cache(self, config: Any) -> Any:
        """Kernel timings of earlier builds. TensorRT-RTX times nothing."""
        if self.order.timing_cache is None or self.order.flavour == "tensorrt-rtx":
            return None
        known = self.order.timing_cache.read_bytes() if self.order.timing_cache.is_file() else b""
        cache = config.create_timing_cache(known)
        if cache is None or not config.set_timing_cache(cache, False):  # another GPU's or version's
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache

    def _keep_timing_cache(self, cache: Any, config: Any) -> None:
        if cache is not None:
            with contextlib.suppress(OSError):  # it only saves time
                write_whole(self.order.timing_cache, config.get_timing_cache().serialize())


def write_whole(file: Path, content: Any) -> None:
    """Write ``file`` so that it is there whole or not at all. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def build(order: argparse.Namespace, progress: Progress) -> dict[str, object]:
    """Build what ``order`` says; returns the last line to tell. Raises Failure, Cancelled and OSError."""
    started = time.monotonic()
    trt = import_tensorrt(order.flavour)
    if not order.onnx.is_file():
        raise Failure(f"There is no ONNX file {order.onnx}.")
    work = Build(trt, order, progress)
    work.parse()
    plan, workspace = work.serialized()
    write_whole(order.plan, plan)
    return {
        "event": "done",
        "seconds": round(time.monotonic() - started, 2),
        "bytes": order.plan.stat().st_size,
        "workspace": workspace,
        "version": trt.__version__,
    }

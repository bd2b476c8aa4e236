"""OpenVINO on the CPU: the exported graph compiled for each size, in bfloat16 where the CPU has it."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# OpenVINO reports its use over the network when it can import this package; None makes the import fail.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino  # noqa: E402

from ..samplers import Row  # noqa: E402
from . import memory  # noqa: E402
from .base import Array, EngineUnusable, Floats, StepBuffers, Steps  # noqa: E402

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
# Every compiled size holds its own copy of the weights, so big networks keep fewer of them.
KEPT_SIZES = 4
KEPT_BYTES = 2 * 2**30

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def load(file: Path, precision: str, threads: int, cache_folder: Path | None) -> OpenVinoRunner:
    """Read an ONNX file; it is compiled at the first use of each size, or loaded from ``cache_folder``."""
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnusable("this CPU has no bfloat16 instructions")
    if cache_folder is not None:
        core.set_property({"CACHE_DIR": str(cache_folder)})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        # Stages are processes of their own: threads bound to the same cores would queue for them.
        "ENABLE_CPU_PINNING": False,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    try:
        model = core.read_model(str(file))
    except RuntimeError as error:
        raise EngineUnusable(f"OpenVINO could not load {file.name}: {error}") from error
    weights = file.stat().st_size + sum(
        extra.stat().st_size for extra in file.parent.glob(f"{file.name}.data")
    )
    return OpenVinoRunner(core, model, settings, kept=max(1, min(KEPT_SIZES, KEPT_BYTES // weights)))


class OpenVinoRunner:
    """A Runner that keeps the most recently used sizes compiled."""

    def __init__(self, core: Any, model: Any, settings: dict[str, object], kept: int) -> None:
        self._core = core
        self._model = model
        self._settings = settings
        self._kept = kept
        self._requests: OrderedDict[Shapes, Any] = OrderedDict()

    @property
    def sizes_kept(self) -> int:
        """How many sizes are compiled at present."""
        return len(self._requests)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        memory.limit_to_free()
        with memory.said_plainly():
            request = self._request({name: array.shape for name, array in inputs.items()})
            request.infer(contiguous, share_inputs=True)
        return {name: np.array(request.get_tensor(name).data) for name in outputs}

    def steps(self, latents: Floats, embeddings: Floats, guidance: Floats) -> Steps:
        buffers = StepBuffers(latents, embeddings, guidance)
        shapes = {name: array.shape for name, array in buffers.inputs.items()}
        memory.limit_to_free()
        with memory.said_plainly():
            request = self._request({"state": buffers.states[0].shape, **shapes})
        return OpenVinoSteps(request, buffers)

    def _request(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        key: Shapes = tuple(sorted(shapes.items()))
        if key not in self._requests:
            while len(self._requests) >= self._kept:
                self._requests.popitem(last=False)
            model = self._model.clone()
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            compiled = self._core.compile_model(model, "CPU", self._settings)
            self._requests[key] = compiled.create_infer_request()
        self._requests.move_to_end(key)
        return self._requests[key]


class OpenVinoSteps:
    """Steps over one request, whose two state tensors change places."""

    ahead = 0

    def __init__(self, request: Any, buffers: StepBuffers) -> None:
        self._request = request
        self._buffers = buffers
        self._states = [openvino.Tensor(state, shared_memory=True) for state in buffers.states]
        for name, array in (*buffers.inputs.items(), ("denoised", buffers.denoised)):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    def start(self, row: Row, noise: Floats | None) -> None:
        self._buffers.set_row(row, noise)
        self._request.set_tensor("state", self._states[self._buffers.current])
        self._request.set_tensor("next_state", self._states[1 - self._buffers.current])
        self._request.start_async()

    def wait(self) -> Floats:
        with memory.said_plainly():
            self._request.wait()
        self._buffers.swap()
        return self._buffers.denoised

    def latents(self) -> Floats:
        return self._buffers.latents()

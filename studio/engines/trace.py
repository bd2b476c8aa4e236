"""Writes a checkpoint's components as ONNX files and checks each against torch.

The TorchScript exporter is used: it needs no further package, yields opset 17 directly, and names
nodes after modules.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from studio.checkpoint import Checkpoint, load
from studio.checkpoint.quiet import quiet
from studio.engines import components, graphs
from studio.engines.bfloat16 import write_float32_twin
from studio.engines.components import COMPONENTS, TEXT_ENCODER, Component
from studio.engines.model_info import model_info, write_tokenizer
from studio.engines.verified import sha256
from studio.errors import ExportError
from studio.report import Report
from triton_models.diffusion.manifest import ModelInfo

OPSET = 17
# ONNX beyond this goes beside its weights in a .data file: protobuf ends at 2 GiB.
INLINE_BYTES = 1_500_000_000
# Of the norm of the difference over the norm of torch's float32 output.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-2}
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
HALF_HEADROOM = 65_504 / 4

Arrays = dict[str, npt.NDArray[Any]]


def write_components(
    checkpoint: Checkpoint, folder: Path, precision: str, wide_precision: str, report: Report
) -> None:
    """Fill ``folder`` with one ONNX file per component, model.json and tokenizer/. Raises ExportError."""
    report(f"Reading {checkpoint.name}", 0.0)
    with quiet(), torch.no_grad():
        pipeline = load(checkpoint, report)
        info = model_info(checkpoint, pipeline)
        modules = graphs.modules(pipeline)
        for index, component in enumerate(COMPONENTS):
            report(f"Exporting {component.name.replace('_', ' ')}", (index + 1) / (len(COMPONENTS) + 1))
            module = modules.pop(component.name)
            info.components[component.name] = _write(
                component, module, info, folder, precision, wide_precision
            )
        write_tokenizer(pipeline.tokenizer, folder / "tokenizer")
        info.save(folder)


def _write(
    component: Component,
    module: nn.Module,
    info: ModelInfo,
    folder: Path,
    precision: str,
    wide_precision: str,
) -> dict[str, Any]:
    """Export one component into ``folder``; returns what model.json says of it.

    It is traced at one size and checked at another, so that what depends on the size shows.
    """
    file = folder / f"{component.name}.onnx"
    inputs = random_inputs(component, _sizes(info, 2, 8, 8))
    expected = module(*(torch.from_numpy(array) for array in inputs.values()))
    expected = [expected] if isinstance(expected, Tensor) else expected
    if precision == "fp16" and not _fits_half(module, inputs):
        # The text encoder takes a millisecond, and bfloat16's rounding of it would steer the whole walk.
        precision = "fp32" if component == TEXT_ENCODER else wide_precision
    if precision in TYPES:
        module = module.to(TYPES[precision])
    _trace(component, module, random_inputs(component, _sizes(info, 1, 3, 5)), file)
    outputs = _run_float32_twin(file, inputs) if precision == "bf16" else run(file, inputs)
    error = relative_error(outputs, [tensor.numpy() for tensor in expected])
    if not error <= TOLERANCE[precision]:
        raise ExportError(
            f"The exported {component.name} differs from torch by {error:.2g} (relative); "
            f"{TOLERANCE[precision]:g} is allowed.",
            state="The export was discarded.",
            hint="The checkpoint may be damaged: try another copy of it.",
        )
    return {"sha256": _digest(file), "precision": precision, "relative_error": float(f"{error:.2g}")}


def _digest(file: Path) -> str:
    """Of the graph and, where they lie beside it, its weights."""
    beside = file.with_name(f"{file.name}.data")
    if not beside.exists():
        return sha256(file)
    return hashlib.sha256(f"{sha256(file)}{sha256(beside)}".encode()).hexdigest()


def _sizes(info: ModelInfo, batch: int, height: int, width: int) -> dict[str, int]:
    return components.sizes(
        batch, height, width, guided=True, tokens=info.max_tokens, embedding_width=info.embedding_width
    )


def random_inputs(component: Component, sizes: dict[str, int], seed: int = 0) -> Arrays:
    """Random values in the range that each input has at run time."""
    random = np.random.default_rng(seed)
    inputs: Arrays = {}
    for spec in component.inputs:
        shape = spec.shape(sizes)
        if spec.name == "input_ids":
            inputs[spec.name] = random.integers(0, 500, shape, dtype=np.int32)
        elif spec.dtype == "uint8":
            inputs[spec.name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif spec.name == "timestep":
            inputs[spec.name] = np.array([500.0], np.float32)
        elif spec.name == "denoised_scale":
            inputs[spec.name] = np.array([0.0, 1.0], np.float32)  # shows the UNet's own error undiluted
        else:
            inputs[spec.name] = random.standard_normal(shape, dtype=np.float32)
    return inputs


def _trace(component: Component, module: nn.Module, example: Arrays, file: Path) -> None:
    """Export ``module`` to ``file``, its weights inside it or, when they are too large, in ``file``.data."""
    symbols = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.dims) if isinstance(dim, str)}
        for spec in component.inputs + component.outputs
    }
    # The exporter writes large models as hundreds of files, so it gets a folder to itself.
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        traced = Path(scratch) / file.name
        torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(array) for array in example.values()),
            str(traced),
            input_names=[spec.name for spec in component.inputs],
            output_names=[spec.name for spec in component.outputs],
            dynamic_axes=symbols,
            opset_version=OPSET,
            dynamo=False,
        )
        if sum(path.stat().st_size for path in Path(scratch).iterdir()) < INLINE_BYTES:
            traced.replace(file)
            return
        model = onnx.load(str(traced))
    onnx.save_model(model, str(file), save_as_external_data=True, location=f"{file.name}.data")


def _fits_half(module: nn.Module, inputs: Arrays) -> bool:
    """Whether everything the network computes on ``inputs`` stays well inside float16's range.

    Some VAEs do not: their activations pass 65,504, and the picture comes out black.
    """
    peak = 0.0

    def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal peak
        if isinstance(output, Tensor) and output.is_floating_point():
            peak = max(peak, float(output.abs().max()))

    hooks = [part.register_forward_hook(watch) for part in module.modules()]
    module(*(torch.from_numpy(array) for array in inputs.values()))
    for hook in hooks:
        hook.remove()
    return peak < HALF_HEADROOM


def _run_float32_twin(file: Path, inputs: Arrays) -> list[npt.NDArray[Any]]:
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        twin = Path(scratch) / file.name
        write_float32_twin(file, twin)
        return run(twin, inputs)


def run(file: Path, inputs: Arrays) -> list[npt.NDArray[Any]]:
    """What ONNX Runtime makes of ``inputs``."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[Any]] = session.run(None, inputs)
    return outputs


def relative_error(actual: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> float:
    """The largest over the outputs of |actual - expected| / |expected| (Euclidean norms); inf for NaN."""
    errors = [
        float(np.linalg.norm(a.astype(np.float64) - e) / (np.linalg.norm(e.astype(np.float64)) + 1e-12))
        for a, e in zip(actual, expected, strict=True)
    ]
    return max(errors) if np.isfinite(errors).all() else float("inf")

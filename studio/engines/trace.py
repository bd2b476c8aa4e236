"""Writes a checkpoint's components as ONNX files and checks each against torch.

The TorchScript exporter is used: it needs no further package, yields opset 17 directly, and names
nodes after modules.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from studio.checkpoint import Checkpoint, load
from studio.engines import components, graphs
from studio.engines.components import COMPONENTS, Component
from studio.engines.model_info import model_info, write_tokenizer
from studio.engines.verified import sha256
from studio.errors import ExportError
from studio.report import Report

if TYPE_CHECKING:
    from studio.engines.export import FixedShape

OPSET = 17
# ONNX beyond this goes beside its weights in a .data file: protobuf ends at 2 GiB.
INLINE_BYTES = 1_500_000_000
# Of the norm of the difference over the norm of torch's float32 output.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}

Arrays = dict[str, npt.NDArray[Any]]


def write_components(
    checkpoint: Checkpoint, folder: Path, precision: str, shape: FixedShape | None, report: Report
) -> None:
    """Fill ``folder`` with one ONNX file per component, model.json and tokenizer/. Raises ExportError."""
    report(f"Reading {checkpoint.name}", 0.0)
    with _quiet(), torch.no_grad():
        pipeline = load(checkpoint)
        info = model_info(checkpoint, pipeline)
        modules = graphs.modules(pipeline)
        for index, component in enumerate(COMPONENTS):
            report(f"Exporting {component.name.replace('_', ' ')}", (index + 1) / (len(COMPONENTS) + 1))
            file = folder / f"{component.name}.onnx"
            error = _write(
                component, modules.pop(component.name), file, precision, shape, info.embedding_width
            )
            info.components[component.name] = {
                "sha256": sha256(file),
                "relative_error": float(f"{error:.2g}"),
            }
            gc.collect()
        write_tokenizer(pipeline.tokenizer, folder / "tokenizer")
        info.save(folder)


def _write(
    component: Component,
    module: nn.Module,
    file: Path,
    precision: str,
    shape: FixedShape | None,
    embedding_width: int,
) -> float:
    """Export one component to ``file``; returns its relative error against float32 torch."""
    sizes = _sizes(shape, embedding_width)
    example = _random_inputs(component, sizes, seed=0)
    expected = module(*(torch.from_numpy(array) for array in example.values()))
    expected = [expected] if isinstance(expected, Tensor) else expected
    if precision == "fp16":
        module = module.half()
    _trace(component, module, example, file, static=shape is not None)
    _inline_or_beside(file)
    error = relative_error(run(file, example), [tensor.numpy() for tensor in expected])
    if not error <= TOLERANCE[precision]:
        raise ExportError(
            f"The exported {component.name} differs from torch by {error:.2g} (relative); "
            f"{TOLERANCE[precision]:g} is allowed.",
            state="The export was discarded.",
            hint="The checkpoint may be damaged: try another copy of it.",
        )
    return error


def _sizes(shape: FixedShape | None, embedding_width: int) -> dict[str, int]:
    """What to trace with. 9 × 11 latents do not halve evenly, which makes the UNet's upsampling
    take its sizes from the skip connections: only so can the graph serve every size."""
    if shape is None:
        return components.sizes(2, 9, 11, guided=True, tokens=77, embedding_width=embedding_width)
    return components.sizes(
        shape.batch,
        shape.height,
        shape.width,
        guided=shape.guided,
        tokens=77,
        embedding_width=embedding_width,
    )


def _random_inputs(component: Component, sizes: dict[str, int], seed: int) -> Arrays:
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
        else:
            inputs[spec.name] = random.standard_normal(shape, dtype=np.float32)
    return inputs


def _trace(component: Component, module: nn.Module, example: Arrays, file: Path, static: bool) -> None:
    dynamic = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.dims) if isinstance(dim, str)}
        for spec in component.inputs + component.outputs
    }
    torch.onnx.export(
        module.eval(),
        tuple(torch.from_numpy(array) for array in example.values()),
        str(file),
        input_names=[spec.name for spec in component.inputs],
        output_names=[spec.name for spec in component.outputs],
        dynamic_axes=None if static else dynamic,
        opset_version=OPSET,
        dynamo=False,
    )


def _inline_or_beside(file: Path) -> None:
    """Keep weights inside ``file`` while protobuf can hold them, else in one ``.data`` file beside it."""
    external = [path for path in file.parent.iterdir() if path.suffix not in (".onnx", ".json", ".data")]
    if not external:
        return
    model = onnx.load(str(file))
    for path in external:
        if path.is_file():
            path.unlink()
    onnx.save_model(
        model, str(file), save_as_external_data=True, location=f"{file.name}.data", size_threshold=1024
    )


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's deprecation notice, its tracer's remarks, and progress bars are not for artists."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = {name: logging.getLogger(name).level for name in ("diffusers", "transformers", "torch.onnx")}
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()

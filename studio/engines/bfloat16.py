"""Graphs in bfloat16. ONNX Runtime computes none, so they are checked in a float32 twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper


def write_float32_twin(file: Path, twin: Path) -> None:
    """Write the graph of ``file`` with float32 wherever it has bfloat16; its weights stay rounded.

    The weights go beside it, into ``twin``.data, because a network in float32 may pass protobuf's 2 GiB.
    """
    model = onnx.load(str(file))
    for tensor in _tensors(model):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for attribute in _attributes(model.graph):
        if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
    del model.graph.value_info[:]  # what the exporter inferred of the tensors in between
    onnx.save_model(model, str(twin), save_as_external_data=True, location=f"{twin.name}.data")


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute
            if attribute.type == AttributeProto.GRAPH:
                yield from _attributes(attribute.g)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from model.graph.initializer
    for attribute in _attributes(model.graph):
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t

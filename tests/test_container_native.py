"""Components served by Triton's own backends: the configuration parses, and its tensors are the graph's."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from studio.server.container import native
from studio.server.repository import Repository
from triton_models.diffusion.manifest import Engine

ONNX_TYPES = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
}


def parsed(model: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("component", native.BATCHES)
def test_onnx_is_served_with_the_graph_s_own_tensors(component: str, exported: Path, tmp_path: Path) -> None:
    engines = {component: [Engine("onnxruntime", f"{component}.onnx", "fp32")]}
    repository = Repository(exported, engines, tmp_path / "compiled")
    repository.write(tmp_path / "models")
    native.serve(repository, ["python", "onnxruntime"], tmp_path / "models")
    model = tmp_path / "models" / component
    config = parsed(model)
    assert config.platform == "onnxruntime_onnx"
    assert not config.backend
    assert (model / "1" / "model.onnx").samefile(exported / f"{component}.onnx")
    assert not (model / "1" / "model.py").exists()
    graph = onnx.load(exported / f"{component}.onnx", load_external_data=False).graph
    for said, known in ((config.input, graph.input), (config.output, graph.output)):
        types = {one.name: model_config_pb2.DataType.Name(one.data_type) for one in said}
        assert types == {one.name: ONNX_TYPES[one.type.tensor_type.elem_type] for one in known}
        for one in said:
            shape = next(value for value in known if value.name == one.name).type.tensor_type.shape
            assert len(one.dims) == len(shape.dim)
            fixed = [(mine, theirs.dim_value) for mine, theirs in zip(one.dims, shape.dim, strict=True)]
            assert all(mine in (-1, theirs) for mine, theirs in fixed if theirs)


def test_a_plan_is_served_with_cuda_graphs_and_the_embeddings_are_cached(
    exported: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "text_encoder.plan"
    plan.write_bytes(b"plan")
    engines = {"text_encoder": [Engine("tensorrt", str(plan), "fp16", batch=(1, 2))]}
    repository = Repository(exported, engines, tmp_path / "compiled")
    repository.write(tmp_path / "models")
    native.serve(repository, ["tensorrt"], tmp_path / "models")
    config = parsed(tmp_path / "models" / "text_encoder")
    assert config.platform == "tensorrt_plan"
    assert config.optimization.cuda.graphs
    assert config.response_cache.enable
    assert (tmp_path / "models" / "text_encoder" / "1" / "model.plan").read_bytes() == b"plan"


def test_python_serves_again_what_a_backend_cannot_any_more(exported: Path, tmp_path: Path) -> None:
    onnx_file = Engine("onnxruntime", "vae_decoder.onnx", "fp32")
    repository = Repository(exported, {"vae_decoder": [onnx_file]}, tmp_path / "compiled")
    models = tmp_path / "models"
    repository.write(models)
    native.serve(repository, ["onnxruntime", "tensorrt"], models)
    one_size = Engine("tensorrt", "x.plan", "fp16", batch=(1, 1), height=(64, 64), width=(64, 64))
    assert repository.replace("vae_decoder", [one_size, onnx_file], models) == 2
    native.serve(repository, ["onnxruntime", "tensorrt"], models)
    config = parsed(models / "vae_decoder")
    assert (config.backend, config.platform) == ("python", "")
    assert (models / "vae_decoder" / "2" / "model.py").exists()
    assert not (models / "vae_decoder" / "2" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("component", "engine", "backends"),
    [
        ("text_encoder", Engine("tensorrt", "x", "fp16", batch=(2, 2)), ["tensorrt"]),  # no prompt alone
        (
            "vae_decoder",
            Engine("tensorrt", "x", "fp16", batch=(1, 1), height=(64, 64), width=(64, 64)),
            ["tensorrt"],
        ),  # one size
        ("text_encoder", Engine("tensorrt", "x", "fp16"), ["python"]),  # the wheel's server
        ("text_encoder", Engine("openvino", "x", "bf16"), ["openvino"]),
        ("denoiser", Engine("tensorrt", "x", "fp16"), ["tensorrt"]),  # its loop runs beside its engine
    ],
)
def test_what_a_backend_cannot_serve_stays_with_the_runners(
    component: str, engine: Engine, backends: list[str]
) -> None:
    assert native.pick(component, [engine], backends) is None

"""Checkpoints as ONNX: the same numbers as torch at every size, made once, never half, never stale."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import tiny
import torch
from tokenizers import Tokenizer

from studio.checkpoint import Checkpoint, load, resolve
from studio.engines import graphs, verified
from studio.engines.components import COMPONENTS, DENOISER, Component, sizes
from studio.engines.export import export
from studio.engines.key import Target
from studio.engines.model_info import preview_factors
from studio.engines.order import ANY_SIZE, orders
from studio.engines.trace import TOLERANCE, random_inputs, relative_error
from studio.errors import CacheError, ExportError
from triton_models.diffusion.manifest import ModelInfo

ROOT = Path(__file__).parents[1]
# batch, latent height, latent width, guided
SIZES = [(1, 32, 32, True), (2, 24, 32, False), (3, 17, 9, True), (8, 8, 8, True), (1, 1, 1, False)]


@pytest.fixture(scope="module")
def bundled() -> dict[str, torch.nn.Module]:
    """The bundled checkpoint's components in torch."""
    return graphs.modules(load(resolve("")))


@pytest.fixture(scope="module")
def exported_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(resolve(""), tmp_path_factory.mktemp("half"), precision="fp16")


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Checkpoint:
    tiny.pipeline("sd1").save_pretrained(tmp_path / "tiny")
    return resolve(str(tmp_path / "tiny"))


def inputs_of(component: Component, batch: int, height: int, width: int, guided: bool) -> dict[str, Any]:
    dims = sizes(batch, height, width, guided=guided, tokens=77, embedding_width=128)
    return random_inputs(component, dims, seed=batch)


def run_torch(module: torch.nn.Module, inputs: dict[str, Any]) -> list[Any]:
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(array) for array in inputs.values()))
    return [tensor.numpy() for tensor in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_one_file_serves_every_size_as_torch_does(
    exported: Path, bundled: dict[str, torch.nn.Module], component: Component
) -> None:
    session = onnxruntime.InferenceSession(exported / f"{component.name}.onnx")
    for size in SIZES:
        inputs = inputs_of(component, *size)
        expected = run_torch(bundled[component.name], inputs)
        actual = session.run(None, inputs)
        assert [array.dtype.name for array in actual] == [spec.dtype for spec in component.outputs]
        assert relative_error(actual, expected) < 1e-3, size


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_openvino_reads_the_same_file(
    exported: Path, bundled: dict[str, torch.nn.Module], component: Component
) -> None:
    compiled = openvino.Core().compile_model(
        exported / f"{component.name}.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    inputs = inputs_of(component, 2, 12, 8, True)
    outputs = compiled(inputs)
    actual = [outputs[spec.name] for spec in component.outputs]
    assert relative_error(actual, run_torch(bundled[component.name], inputs)) < 2e-3


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_files_keep_the_contract(exported: Path, exported_half: Path, component: Component) -> None:
    for folder in (exported, exported_half):
        model = onnx.load(folder / f"{component.name}.onnx")
        onnx.checker.check_model(model)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
        for specs, values in ((component.inputs, model.graph.input), (component.outputs, model.graph.output)):
            assert [(spec.name, spec.dtype, spec.dims) for spec in specs] == [
                (
                    value.name,
                    np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name,
                    tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
                )
                for value in values
            ]


def test_a_step_is_the_formula(exported: Path) -> None:
    """With a table row that copies, guides and adds, against numpy and a UNet read through the graph."""
    session = onnxruntime.InferenceSession(exported / "denoiser.onnx")
    inputs = inputs_of(DENOISER, 2, 8, 8, True)
    state, update, noise = inputs["state"], inputs["update"], inputs["noise"]
    inputs["denoised_scale"] = np.array([0.0, 1.0], np.float32)
    next_state, prediction = session.run(None, inputs)
    terms = np.concatenate([state, prediction[None], noise[None]]).astype(np.float64)
    np.testing.assert_allclose(next_state, np.einsum("ij,j...->i...", update, terms), atol=1e-4)

    inputs["denoised_scale"] = np.array([0.25, -2.0], np.float32)
    _, denoised = session.run(None, inputs)
    np.testing.assert_allclose(denoised, 0.25 * state[0] - 2.0 * prediction, atol=1e-5)


def test_pictures_of_a_batch_do_not_mix(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "denoiser.onnx")
    inputs = inputs_of(DENOISER, 2, 8, 8, True)
    g = 3.0
    inputs["guidance"] = np.array([[1 - g, 0, g, 0], [0, 1 - g, 0, g]], np.float32)
    both, _ = session.run(None, inputs)
    for picture in range(2):
        alone = {
            **inputs,
            "state": inputs["state"][:, [picture]],
            "noise": inputs["noise"][[picture]],
            "embeddings": inputs["embeddings"][[picture, 2 + picture]],
            "guidance": np.array([[1 - g, g]], np.float32),
        }
        next_state, _ = session.run(None, alone)
        np.testing.assert_allclose(next_state[:, 0], both[:, picture], atol=1e-4)


def test_float16_is_near_torch_and_keeps_guidance_and_update_in_float32(
    exported_half: Path, bundled: dict[str, torch.nn.Module]
) -> None:
    for component in COMPONENTS:
        session = onnxruntime.InferenceSession(exported_half / f"{component.name}.onnx")
        inputs = inputs_of(component, 1, 16, 16, True)
        expected = run_torch(bundled[component.name], inputs)
        assert relative_error(session.run(None, inputs), expected) < TOLERANCE["fp16"]
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported_half / "denoiser.onnx")).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    for node in graph.node:
        if node.op_type in ("Mul", "ReduceSum") and node.name.startswith(("/guide/", "/update/")):
            assert types.get(node.output[0], onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT, node.name
    unet = [i for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT and i.dims]
    assert not unet, "weights in float32"


def test_model_json_says_what_the_checkpoint_is(exported: Path) -> None:
    info = ModelInfo.load(exported)
    checkpoint = resolve("")
    assert (info.name, info.digest, info.prediction_type) == (
        checkpoint.name,
        checkpoint.digest,
        checkpoint.prediction_type,
    )
    assert (info.default_width, info.default_height, info.max_tokens, info.embedding_width) == (
        256,
        256,
        77,
        128,
    )
    for component in COMPONENTS:
        stated = info.components[component.name]
        assert stated["relative_error"] <= TOLERANCE["fp32"]
        assert stated["sha256"] == verified.sha256(exported / f"{component.name}.onnx")


def test_previews_have_the_colours_of_the_picture() -> None:
    """On a VAE whose decoder is linear the fit must find exactly that map."""

    class Encoder(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            pooled = torch.nn.functional.avg_pool2d(pixels, 8)
            return torch.cat(
                [pooled, pooled[:, :1] * pooled[:, 1:2], torch.zeros_like(pooled), pooled[:, :1]], 1
            )

    class Decoder(torch.nn.Module):
        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(latents[:, [2, 0, 1]] * 0.5, scale_factor=8)

    vae = tiny.pipeline("sd1").vae
    vae.quant_conv = vae.post_quant_conv = None
    encoder, decoder = vae.encoder, vae.decoder
    vae.encoder, vae.decoder = Encoder(), Decoder()
    vae.encoder.weight, vae.decoder.weight = encoder.conv_in.weight, decoder.conv_in.weight
    factors = np.array(preview_factors(vae))
    expected = np.zeros((5, 3))
    expected[2, 0] = expected[0, 1] = expected[1, 2] = 0.25 / vae.config.scaling_factor
    expected[4] = 0.5
    np.testing.assert_allclose(factors, expected, atol=1e-4)


def test_the_tokenizer_needs_only_the_tokenizers_library(exported: Path) -> None:
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer" / "tokenizer.json"))
    expected = load(resolve("")).tokenizer("a red boat at dawn").input_ids
    assert tokenizer.encode("a red boat at dawn").ids == expected
    assert json.loads((exported / "tokenizer" / "tokenizer_config.json").read_text())["pad_token"]


# --- the cache -----------------------------------------------------------------------------------


def test_a_second_start_needs_no_torch(exported: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from studio.checkpoint import resolve; "
        "from studio.engines.export import export; "
        f"assert str(export(resolve(''), Path({str(exported.parents[1])!r}))) == {str(exported)!r}; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_damage_is_noticed_and_mended(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = export(tiny_checkpoint, tmp_path)
    content = (folder / "vae_decoder.onnx").read_bytes()
    for damaged in (content[:-100], b"", content[:5000] + b"\x00" * 8 + content[5008:]):
        (folder / "vae_decoder.onnx").write_bytes(damaged)
        assert not verified.intact(folder)
    (folder / "model.json").unlink()
    abandoned = folder.with_name(f"{folder.name}.partial-1")  # as a killed export leaves it
    abandoned.mkdir()
    assert export(tiny_checkpoint, tmp_path) == folder
    assert verified.intact(folder)
    assert [path.name for path in (tmp_path / "onnx").iterdir() if path.is_dir()] == [folder.name]


def test_large_files_are_hashed_again_only_when_touched(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(verified.ALWAYS_HASHED_BYTES + 1)
    verified.seal(tmp_path)
    assert verified.intact(tmp_path)
    with (tmp_path / "large").open("r+b") as file:
        file.write(b"garbage")
    assert not verified.intact(tmp_path)


def _export_into(folder: Path, cache: Path, queue: Any) -> None:
    torch.set_num_threads(1)
    said: list[str] = []
    path = export(resolve(str(folder)), cache, lambda message, _fraction: said.append(message))
    queue.put((str(path), any("Exporting" in message for message in said)))


def test_two_studios_at_once_export_once(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (tiny_checkpoint.path, tmp_path / "cache", queue)
    studios = [context.Process(target=_export_into, args=arguments) for _ in range(2)]
    for studio in studios:
        studio.start()
    answers = [queue.get(timeout=110) for _ in studios]
    for studio in studios:
        studio.join()
    assert answers[0][0] == answers[1][0]
    assert sorted(worked for _, worked in answers) == [False, True]
    assert verified.intact(Path(answers[0][0]))


def test_a_cache_that_cannot_be_written_is_said(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(CacheError, match="STUDIO_CACHE"):
        export(tiny_checkpoint, tmp_path / "cache")


def test_a_checkpoint_of_nan_is_not_exported(tmp_path: Path) -> None:
    pipeline = tiny.pipeline("sd1")
    torch.nn.init.constant_(pipeline.unet.conv_out.bias, float("nan"))
    pipeline.save_pretrained(tmp_path / "tiny")
    with pytest.raises(ExportError, match="denoiser differs from torch"):
        export(resolve(str(tmp_path / "tiny")), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache" / "onnx").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("wide", "stored"), [("fp32", onnx.TensorProto.FLOAT), ("bf16", onnx.TensorProto.BFLOAT16)]
)
def test_a_vae_that_overflows_float16_is_exported_in_the_wide_precision(
    tmp_path: Path, wide: str, stored: int
) -> None:
    checkpoint = resolve(str(tiny.beyond_float16(tmp_path / "tiny")))
    folder = export(checkpoint, tmp_path / "cache", precision="fp16", wide_precision=wide)
    components = ModelInfo.load(folder).components
    assert components["vae_decoder"]["precision"] == wide
    assert components["denoiser"]["precision"] == "fp16"
    weights = onnx.load(folder / "vae_decoder.onnx").graph.initializer
    assert {tensor.data_type for tensor in weights if len(tensor.dims) == 4} == {stored}
    assert [path.name for path in folder.iterdir() if "vae_decoder" in path.name] == ["vae_decoder.onnx"]
    target = Target("tensorrt-rtx", "1.7", "8.9", "fp16")
    ordered = {each.component.name: each.key.precision for each in orders(folder, target, ANY_SIZE)}
    assert (ordered["vae_decoder"], ordered["denoiser"]) == (wide, "fp16")

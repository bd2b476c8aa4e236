"""The export at the geometry of checkpoints that artists use: random weights, real layers and sizes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from studio.checkpoint import resolve
from studio.engines.components import COMPONENTS, DENOISER, sizes
from studio.engines.export import export
from studio.engines.trace import TOLERANCE, random_inputs
from triton_models.diffusion.manifest import ModelInfo


def test_sd21_from_one_file(tmp_path: Path) -> None:
    """SD 2.1's kind of checkpoint: one file, OpenCLIP, linear projections, v-prediction, padding with "!"."""
    metadata = {"modelspec.prediction_type": "v"}
    file = tiny.save_single_file(
        tiny.pipeline("sd2", text_width=128), tmp_path / "sd21.safetensors", metadata
    )
    folder = export(resolve(str(file)), tmp_path)
    info = ModelInfo.load(folder)
    assert (info.family, info.prediction_type, info.embedding_width) == ("sd2", "v_prediction", 128)
    assert (info.default_width, info.default_height) == (768, 768)
    assert all(stated["relative_error"] <= TOLERANCE["fp32"] for stated in info.components.values())
    assert '"pad_token": "!"' in (folder / "tokenizer" / "tokenizer_config.json").read_text()


def _fill(network: torch.nn.Module) -> torch.nn.Module:
    """Random weights without the minutes that proper initialisation takes for a billion of them."""
    network = network.to_empty(device="cpu").half()
    block = 0.02 * torch.randn(1_000_003).half()
    for index, (name, parameter) in enumerate(network.named_parameters()):
        block = block.roll(index + 1)  # the exporter writes equal tensors once
        repeats = -(-parameter.numel() // len(block))
        parameter.data = block.repeat(repeats)[: parameter.numel()].reshape(parameter.shape).clone()
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1
    return network.eval()


def _save_sd15(folder: Path) -> None:
    pipeline = tiny.pipeline("sd1")  # for its scheduler and tokenizer
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            projection_dim=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
        )
    ).half()
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    pipeline.register_modules(unet=_fill(unet), vae=_fill(vae), text_encoder=text_encoder)
    pipeline.save_pretrained(folder)


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder whose gigabytes go at once; pytest keeps those of its last three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.timeout(900)
def test_sd15(roomy: Path) -> None:
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") < 10e9:
        pytest.skip("needs 10 GB of free memory")
    _save_sd15(roomy / "sd15")
    checkpoint = resolve(str(roomy / "sd15"))
    assert (checkpoint.family, checkpoint.default_size) == ("sd1", (512, 512))
    folder = export(checkpoint, roomy)
    info = ModelInfo.load(folder)
    assert {name: stated["relative_error"] <= 1e-3 for name, stated in info.components.items()} == {
        component.name: True for component in COMPONENTS
    }
    model = onnx.load(folder / "denoiser.onnx", load_external_data=False)
    assert model.opset_import[0].version == 17
    assert (folder / "denoiser.onnx.data").stat().st_size > 3.4e9

    session = onnxruntime.InferenceSession(folder / "denoiser.onnx")
    dims = sizes(1, 7, 9, guided=False, tokens=77, embedding_width=768)
    next_state, _ = session.run(None, random_inputs(DENOISER, dims))
    assert next_state.shape == (5, 1, 4, 7, 9)
    assert np.isfinite(next_state).all()

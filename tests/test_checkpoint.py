"""resolve() and load(): what is taken, what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from studio.checkpoint import load, resolve
from studio.errors import CheckpointError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders") / "tiny-sd1"
    tiny.pipeline("sd1").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sd1_folder: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(sd1_folder, tmp_path / "tiny-sd1"))


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(model: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve(str(model))
    assert caught.value.hint
    return str(caught.value)


def weights(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


# --- the bundled one ---------------------------------------------------------------------------


def test_nothing_named_is_the_bundled_checkpoint() -> None:
    checkpoint = resolve("")
    assert checkpoint.name == "postcards"
    assert checkpoint.default_size == (256, 256)
    assert load(checkpoint).unet.dtype == torch.float32


def test_resolving_imports_nothing_heavy() -> None:
    code = (
        "import sys; from studio.checkpoint import resolve; resolve(''); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- folders -----------------------------------------------------------------------------------


def test_a_folder_says_what_it_is(sd1_folder: Path) -> None:
    checkpoint = resolve(str(sd1_folder))
    assert (checkpoint.name, checkpoint.family, checkpoint.prediction_type, checkpoint.default_size) == (
        "tiny-sd1",
        "sd1",
        "epsilon",
        (64, 64),
    )


def test_sd2_is_told_by_its_text_encoder(folder: Path) -> None:
    edit(folder / "text_encoder" / "config.json", hidden_act="gelu")
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    checkpoint = resolve(str(folder))
    assert (checkpoint.family, checkpoint.prediction_type) == ("sd2", "v_prediction")


def test_the_digest_is_of_the_content(sd1_folder: Path, folder: Path) -> None:
    original = resolve(str(sd1_folder)).digest
    assert resolve(str(folder)).digest == original
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    rescheduled = resolve(str(folder)).digest
    with weights(folder).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x3f")
    retrained = resolve(str(folder)).digest
    assert len({original, rescheduled, retrained}) == 3


@pytest.mark.parametrize("halved", [("unet", "vae", "text_encoder"), ("unet",)])
def test_half_precision_variants_load(folder: Path, halved: tuple[str, ...]) -> None:
    expected = load(resolve(str(folder))).vae.state_dict()
    for part in halved:
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
    loaded = load(resolve(str(folder)))
    assert loaded.unet.dtype == torch.float32
    assert all(torch.equal(expected[key], value) for key, value in loaded.vae.state_dict().items())


@pytest.mark.parametrize(
    ("class_name", "words"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("StableDiffusionInpaintPipeline", "inpainting"),
        ("SomethingNewPipeline", "SomethingNewPipeline"),
    ],
)
def test_other_families_are_refused_by_name(folder: Path, class_name: str, words: str) -> None:
    edit(folder / "model_index.json", _class_name=class_name)
    message = refusal(folder)
    assert words in message
    assert "Stable Diffusion 1.x and 2.x" in message


def test_a_folder_with_an_inpainting_unet_is_refused(folder: Path) -> None:
    edit(folder / "unet" / "config.json", in_channels=9)
    assert "inpainting" in refusal(folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"prediction_type": "sample"}, "predicts the picture"),
    ],
)
def test_a_noise_schedule_that_we_cannot_draw_is_refused(
    folder: Path, settings: dict[str, object], words: str
) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", **settings)
    assert words in refusal(folder)


def test_a_folder_with_pickles_only_is_refused_with_the_reason(folder: Path) -> None:
    weights(folder).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    assert "pickle" in refusal(folder)


def test_an_incomplete_folder_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    assert "config.json is missing" in refusal(folder)


def test_a_configuration_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")
    assert "cannot be read" in refusal(folder)


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_truncated_weights_are_refused(folder: Path, size: int) -> None:
    content = weights(folder).read_bytes()
    weights(folder).write_bytes(content[:size])
    assert "damaged" in refusal(folder)


def test_weights_that_lack_tensors_are_refused(folder: Path) -> None:
    tensors = load_file(weights(folder))
    del tensors["conv_out.weight"]
    save_file(tensors, weights(folder))
    with pytest.raises(CheckpointError, match="685 of the 686 tensors of its unet"):
        load(resolve(str(folder)))


def test_weights_that_do_not_fit_their_configuration_are_said(folder: Path) -> None:
    edit(folder / "unet" / "config.json", cross_attention_dim=96)
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load(resolve(str(folder)))


def test_garbage_weights_are_refused(folder: Path) -> None:
    size = weights(folder).stat().st_size
    weights(folder).write_bytes((100).to_bytes(8, "little") + b"\xff" * (size - 8))
    assert "damaged" in refusal(folder)


# --- single files ------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "prediction_type"), [("sd1", "epsilon"), ("sd2", "v_prediction")])
def test_a_single_file_is_the_pipeline_it_was_made_from(
    tmp_path: Path, family: str, prediction_type: str
) -> None:
    original = tiny.pipeline(family)
    metadata = {"modelspec.prediction_type": prediction_type[:1]} if family == "sd2" else {}
    file = tiny.save_single_file(original, tmp_path / "model.safetensors", metadata)
    checkpoint = resolve(str(file))
    assert (checkpoint.family, checkpoint.prediction_type) == (family, prediction_type)
    loaded = load(checkpoint)
    for part in ("unet", "vae", "text_encoder"):
        expected, actual = getattr(original, part).state_dict(), getattr(loaded, part).state_dict()
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert loaded.scheduler.config.prediction_type == prediction_type
    assert loaded.tokenizer.pad_token == original.tokenizer.pad_token


def test_an_sd2_file_that_says_nothing_is_tried_out(tmp_path: Path) -> None:
    pipeline = tiny.pipeline("sd2")
    for bias, prediction_type in ((0.5, "epsilon"), (-5.0, "v_prediction")):
        torch.nn.init.zeros_(pipeline.unet.conv_out.weight)
        torch.nn.init.constant_(pipeline.unet.conv_out.bias, bias)
        checkpoint = resolve(str(tiny.save_single_file(pipeline, tmp_path / "model.safetensors")))
        assert checkpoint.prediction_type == "unknown"
        assert load(checkpoint).scheduler.config.prediction_type == prediction_type


def test_a_yaml_beside_an_sd2_file_is_believed(tmp_path: Path) -> None:
    file = tiny.save_single_file(tiny.pipeline("sd2"), tmp_path / "model.safetensors")
    file.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert resolve(str(file)).prediction_type == "v_prediction"


def test_without_its_vocabulary_a_single_file_says_where_to_get_it(tmp_path: Path) -> None:
    """In a process of its own, which reads that there is no network when it imports the Hub's client."""
    file = tiny.save_single_file(tiny.pipeline("sd1"), tmp_path / "model.safetensors")
    shutil.rmtree(tmp_path / "tokenizer")
    code = "import sys; from studio.checkpoint import load, resolve; load(resolve(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "CheckpointError: model.safetensors does not carry the vocabulary" in done.stderr
    assert f"put vocab.json and merges.txt of that model into {tmp_path / 'tokenizer'}" in done.stderr


@pytest.mark.parametrize(
    ("tensor", "shape", "words"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", (320, 9, 3, 3), "inpainting"),
        ("conditioner.embedders.1.model.ln_final.bias", (4,), "Stable Diffusion XL"),
        ("conditioner.embedders.0.model.ln_final.bias", (4,), "refiner"),
        ("model.diffusion_model.joint_blocks.0.x", (4,), "Stable Diffusion 3"),
        ("model.diffusion_model.double_blocks.0.x", (4,), "Flux"),
        ("lora_unet_down_blocks_0.lora_down.weight", (4, 4), "LoRA"),
        ("control_model.input_blocks.0.0.weight", (4,), "ControlNet"),
        ("emb_params", (2, 768), "textual inversion"),
        ("something.else", (4,), "not a Stable Diffusion checkpoint"),
        ("model.diffusion_model.input_blocks.0.0.weight", (320, 4, 3, 3), "1 of the 686 tensors of a UNet"),
    ],
)
def test_other_files_are_refused_by_name(
    tmp_path: Path, tensor: str, shape: tuple[int, ...], words: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({tensor: torch.zeros(shape)}, file)
    assert words in refusal(file)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".pth"])
def test_a_pickle_is_refused_with_the_reason(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    file.write_bytes(b"anything")
    assert "can run any program" in refusal(file)


@pytest.mark.parametrize("model", ["/nowhere/at/all", "no-owner", "C:\\models\\sd.safetensors", "a/b/c"])
def test_what_is_nowhere_is_said(model: str) -> None:
    assert "There is no checkpoint at" in refusal(model)

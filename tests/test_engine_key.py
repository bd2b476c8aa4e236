"""Engine keys: what changes them, what does not, and what a difference is called."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from studio.engines import verified
from studio.engines.components import COMPONENTS, DENOISER, TEXT_ENCODER, VAE_DECODER
from studio.engines.flavour import TENSORRT, TENSORRT_RTX, Choice
from studio.engines.key import EngineKey, Profile, Target, onnx_digest
from studio.gpu import GIB, Gpu

RTX_4090 = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", (8, 9), 24 * GIB, 20 * GIB, "580.95", (13, 0))
TARGET = Target(TENSORRT, "11.3.0.99", "8.9", "fp16", "NVIDIA GeForce RTX 4090 24 GB")


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    file = tmp_path / "denoiser.onnx"
    file.write_bytes(b"graph")
    return file


@pytest.fixture
def key(onnx: Path) -> EngineKey:
    return EngineKey.of(DENOISER, onnx, TARGET, Profile.fixed(1, 64, 64))


OTHERS: dict[str, Any] = {
    "component": "vae_decoder",
    "onnx": "0" * 64,
    "flavour": TENSORRT_RTX,
    "version": "11.4.0.106",
    "capability": "8.6",
    "precision": "bf16",
    "device": "NVIDIA GeForce RTX 4070 12 GB",
    "system": "Windows-AMD64",
    "profile": Profile.fixed(1, 96, 96),
    "level": 5,
    "refit": True,
    "recipe": 0,
}


def test_every_part_changes_the_name_and_is_told_apart(key: EngineKey) -> None:
    assert OTHERS.keys() == {field.name for field in fields(EngineKey)}
    names = {key.name}
    for part, value in OTHERS.items():
        other = replace(key, **{part: value})
        names.add(other.name)
        (difference,) = key.differences(other)
        assert difference.startswith(("its ", "whether "))
    assert len(names) == len(OTHERS) + 1
    assert key.differences(key) == []


def test_a_difference_reads_as_a_sentence(key: EngineKey) -> None:
    older = replace(key, version="10.9.0.34", profile=Profile((1, 4), (32, 96), (64, 64)))
    assert key.differences(older) == [
        "its TensorRT version is 10.9.0.34, not 11.3.0.99",
        "its size is 512 × 256–768, batch 1–4, not 512 × 512, batch 1",
    ]


def test_a_key_survives_json_and_its_name_is_a_plain_folder_name(key: EngineKey) -> None:
    again = EngineKey.parse(json.loads(json.dumps(asdict(key))))
    assert (again, again.name) == (key, key.name)
    assert key.name.startswith("denoiser-sm89-")
    assert key.name.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 11},
        {"level": "3"},
        {"level": True},
        {"refit": 1},
        {"extra": "x"},
        {"component": "a/../../../../evil"},
        {"capability": "8/../9"},
        {"profile": {"batch": [1, 1]}},
        {"profile": {"batch": [2, 1], "height": [8, 8], "width": [8, 8]}},
        {"profile": {"batch": [1, 1, 1], "height": [8, 8], "width": [8, 8]}},
        {"profile": {"batch": ["1", "1"], "height": [8, 8], "width": [8, 8]}},
        {"profile": []},
    ],
)
def test_parts_that_are_not_a_key_are_refused(key: EngineKey, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"part|profile"):
        EngineKey.parse({**asdict(key), **change})
    with pytest.raises(ValueError, match="parts"):
        EngineKey.parse([1])


def test_the_digest_covers_external_weights_and_trusts_a_seal(onnx: Path) -> None:
    graph_only = onnx_digest(onnx)
    weights = onnx.with_name("denoiser.onnx.data")
    weights.write_bytes(b"weights")
    with_weights = onnx_digest(onnx)
    weights.write_bytes(b"other weights")
    assert len({graph_only, with_weights, onnx_digest(onnx)}) == 3

    unsealed = onnx_digest(onnx)
    verified.seal(onnx.parent)
    assert onnx_digest(onnx) == unsealed


def test_a_tensorrt_target_names_its_card_and_an_rtx_target_fits_all_of_a_capability() -> None:
    tensorrt = Target.of(RTX_4090, Choice(TENSORRT, "", "fp16", "", "11.3.0.99"))
    assert tensorrt == TARGET
    rtx = Target.of(RTX_4090, Choice(TENSORRT_RTX, "", "fp16", "", "1.7.1.116"))
    assert (rtx.device, rtx.capability) == ("", "8.9")


def test_the_driver_and_free_memory_are_not_part_of_a_target() -> None:
    choice = Choice(TENSORRT, "", "fp16", "", "11.3.0.99")
    other = replace(RTX_4090, driver="610.43", memory_free=GIB, uuid="GPU-2", index=1)
    assert Target.of(other, choice) == Target.of(RTX_4090, choice)


def test_fixed_profiles_have_one_shape_for_every_input() -> None:
    for component in COMPONENTS:
        shapes = Profile.fixed(2, 64, 96).shapes(component, tokens=77, embedding_width=768)
        assert shapes.keys() == {spec.name for spec in component.inputs}
        if component != TEXT_ENCODER:
            assert all(low == best == high for low, best, high in shapes.values())
    denoiser = Profile.fixed(2, 64, 96).shapes(DENOISER, tokens=77, embedding_width=768)
    assert denoiser["state"][1] == (5, 2, 4, 64, 96)
    assert denoiser["embeddings"][1] == (4, 77, 768)
    assert denoiser["guidance"][1] == (2, 4)


def test_ranges_and_the_text_encoder_span_their_sizes() -> None:
    wide = Profile((1, 4), (32, 96), (32, 64))
    (latents,) = wide.shapes(VAE_DECODER, tokens=77, embedding_width=768).values()
    assert latents == ((1, 4, 32, 32), (1, 4, 96, 64), (4, 4, 96, 64))
    (ids,) = wide.shapes(TEXT_ENCODER, tokens=77, embedding_width=768).values()
    assert ids == ((1, 77), (2, 77), (2, 77))

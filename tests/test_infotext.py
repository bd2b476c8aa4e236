"""A1111's text: written, read, and its traps."""

import pytest

from studio import infotext
from studio.request import ImageRequest

EXTRAS = {"Model": "postcards", "Engine": "openvino bf16", "Version": "Triton Studio 0.1.0"}


def request(**changes) -> ImageRequest:
    asked = {
        "prompt": "a red house",
        "seed": 7,
        "width": 256,
        "height": 192,
        "steps": 12,
        "guidance_scale": 6.5,
    }
    return ImageRequest(**{**asked, **changes})


def back(asked: ImageRequest) -> ImageRequest:
    return infotext.read(infotext.write(asked, seed=asked.seed, extras=EXTRAS)).request


def test_writes_a1111s_grammar_in_its_order():
    asked = request(negative_prompt="fog", sampler="DPM++ 2M Karras")
    assert infotext.write(asked, seed=9, extras=EXTRAS) == (
        "a red house\nNegative prompt: fog\n"
        "Steps: 12, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 9, Size: 256x192, "
        "Model: postcards, Engine: openvino bf16, Version: Triton Studio 0.1.0"
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a red house",
        "two lines\nof prompt",
        "  indented and trailing  ",
        "line\n   indented\n",
        "Negative prompt: is how this one starts",
        "sea\nNegative prompt: in the middle",
        "Steps: 20, Sampler: Euler, Seed: 3",
        'he said "blue", twice: "blue"',
        "carriage\r\nreturn",
        "a NUL \0 inside",
        "שלום עולם 🌊 مرحبا",
        "back\\slash \\n",
        "\u2028odd separators\u00a0",
        ", ".join(f"word{i}: {i}" for i in range(300)),
    ],
)
def test_every_prompt_comes_back_exactly(prompt):
    for negative in ("", "grey", prompt):
        asked = request(prompt=prompt, negative_prompt=negative)
        assert back(asked) == asked


@pytest.mark.parametrize("name", infotext.NAMES)
def test_every_sampler_comes_back(name):
    assert back(request(sampler=name)).sampler == name


def test_extras_with_commas_and_quotes_come_back():
    extras = {"Engine": 'sha256:abc, "fp16"', "Version": "x"}
    assert infotext.read(infotext.write(request(), seed=1, extras=extras)).pairs["Engine"] == extras["Engine"]


def test_reads_a_picture_of_a1111():
    recipe = infotext.read(
        "a castle, (masterpiece:1.2)\nby the sea\nNegative prompt: lowres, bad hands\nblurry\n"
        "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 3863428281, Size: 512x768, "
        "Model hash: 6ce0161689, Model: v1-5, Denoising strength: 0.55, "
        'Lora hashes: "a: 1, b: 2", Version: v1.10.1'
    )
    asked = recipe.request
    assert asked.prompt == "a castle, (masterpiece:1.2)\nby the sea"
    assert asked.negative_prompt == "lowres, bad hands\nblurry"
    assert (asked.steps, asked.guidance_scale, asked.seed) == (28, 7.0, 3863428281)
    assert (asked.width, asked.height, asked.strength) == (512, 768, 0.55)
    assert asked.sampler == "DPM++ 2M Karras"
    assert recipe.pairs["Lora hashes"] == "a: 1, b: 2"
    assert recipe.unknown_sampler == ""


def test_says_which_sampler_it_does_not_have():
    recipe = infotext.read("x\nSteps: 20, Sampler: Restart, CFG scale: 7, Seed: 1, Size: 512x512")
    assert recipe.unknown_sampler == "Restart"
    assert recipe.request.sampler == ImageRequest("x").sampler


@pytest.mark.parametrize(
    ("named", "ours", "unknown"),
    [
        ("Sampler: DPM++ 2M, Schedule type: Karras", "DPM++ 2M Karras", ""),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "DPM++ 2M Karras", ""),
        ("Sampler: Euler, Schedule type: Automatic", "Euler", ""),
        ("Sampler: Euler, Schedule type: Uniform", "Euler", ""),
        ("Sampler: Euler, Schedule type: Karras", "Euler", "Euler Karras"),
        ("Sampler: DPM++ 2M SDE, Schedule type: Automatic", "DPM++ 2M SDE", "DPM++ 2M SDE Exponential"),
        ("CFG scale: 3", ImageRequest("x").sampler, ""),
    ],
)
def test_a_schedule_of_a1111_is_ours_or_is_said(named, ours, unknown):
    recipe = infotext.read(f"x\nSteps: 20, {named}, Seed: 1, Size: 512x512")
    assert (recipe.request.sampler, recipe.unknown_sampler) == (ours, unknown)


def test_text_without_settings_is_all_prompt():
    assert infotext.read("only: this, and: that").request.prompt == "only: this, and: that"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("Steps: 9000, CFG scale: nan, Seed: -5, Size: 1x99999", (150, 7.0, -1, 64, 2048)),
        ("Steps: many, CFG scale: 99, Seed: 99999999999999999999, Size: 515x253", (20, 30.0, -1, 512, 256)),
        ("Steps: 1e9, CFG scale: inf, Seed: 12, Size: big", (150, 30.0, 12, None, None)),
    ],
)
def test_foreign_numbers_are_brought_into_range(params, expected):
    asked = infotext.read(f"x\n{params}").request
    assert (asked.steps, asked.guidance_scale, asked.seed, asked.width, asked.height) == expected

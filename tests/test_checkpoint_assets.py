"""The bundled checkpoint: what it is made of, what it can do, and whether its examiners can be trusted."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from assets.training.captions import SIDE_WORDS, caption, full_caption
from assets.training.checkers import agreement, palette, sightings, time_of_day
from assets.training.painter import CHECKPOINT, Painter, Settings
from assets.training.renderer import render
from assets.training.scene import (
    COLOURS,
    KINDS,
    Scene,
    Thing,
    held_out_scene,
    is_held_out,
    random_scene,
    training_scene,
    turns,
)

SIZE_LIMIT = 20_000_000


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(Settings(steps=10, batch=3))


def test_the_folder_fits_in_twenty_megabytes() -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT.rglob("*") if file.is_file()) <= SIZE_LIMIT


def test_the_folder_holds_safetensors_and_no_pickles() -> None:
    suffixes = {file.suffix for file in CHECKPOINT.rglob("*") if file.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def test_model_index_names_no_safety_checker() -> None:
    index = json.loads((CHECKPOINT / "model_index.json").read_text())
    assert index["requires_safety_checker"] is False
    assert index["safety_checker"] == [None, None]


def test_vocabulary_files_agree() -> None:
    """Readers of vocab.json and merges.txt and readers of tokenizer.json see the same tokens."""
    folder = CHECKPOINT / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert tokenizer.model_max_length == 77


def test_every_word_of_the_grammar_is_one_token() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(CHECKPOINT / "tokenizer")
    for word in (*COLOURS, *KINDS, "left", "right", "night", "sunset", "mountains"):
        assert len(tokenizer.tokenize(word)) == 1, word


def test_any_text_can_be_encoded() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(CHECKPOINT / "tokenizer")
    ids = tokenizer("ночь 夜 🌙 \u200f", truncation=True, max_length=77).input_ids
    assert len(ids) > 2
    assert tokenizer.unk_token_id not in ids[1:-1]


def test_the_same_scene_gives_the_same_pixels() -> None:
    scene = random_scene(random.Random(3))
    assert np.array_equal(np.asarray(render(scene)), np.asarray(render(scene)))


def test_training_never_sees_a_held_out_scene() -> None:
    rng = random.Random(4)
    assert not any(is_held_out(training_scene(rng)) for _ in range(200))
    assert all(is_held_out(held_out_scene(rng)) for _ in range(20))


def test_captions_vary_but_stay_true() -> None:
    scene = Scene("sea", "night", "clear", "natural", (Thing("boat", "red", side="left"),))
    rng = random.Random(5)
    captions = {caption(scene, rng) for _ in range(60)}
    assert len(captions) > 40
    assert not any(
        wrong in text.lower() for text in captions for wrong in ("right", "blue", "sunset", "desert")
    )


def test_the_turns_of_a_scene_differ_in_its_sides_alone() -> None:
    things = (
        Thing("boat", "red", side="left"),
        Thing("kite", "blue", side="centre"),
        Thing("cat", "pink", 2),
    )
    scene = Scene("sea", "night", "clear", "natural", things)
    turned = turns(scene)
    assert turned[0] == scene
    assert [[thing.side for thing in each.things] for each in turned] == [
        ["left", "centre", None],
        ["centre", "right", None],
        ["right", "left", None],
    ]
    for wording in range(20):
        texts = [caption(each, random.Random(wording)).lower() for each in turned]
        for words in sorted(sum(SIDE_WORDS.values(), ()), key=len, reverse=True):
            texts = [text.replace(words, "there") for text in texts]
        assert len(set(texts)) == 1
    plain = Scene("sea", "night", "clear", "natural")
    assert len({each.seed for each in turns(plain)}) == len(turned)


@pytest.mark.parametrize("size", [(256, 256), (256, 192), (192, 256)])
def test_the_checkers_read_what_the_renderer_draws(size: tuple[int, int]) -> None:
    rng = random.Random(6)
    scenes = [held_out_scene(rng) for _ in range(20)]
    right = [verdict for scene in scenes for verdict in _verdicts(scene, size)]
    assert np.mean(right) >= 0.98


def test_the_checkers_notice_a_wrong_picture() -> None:
    drawn = Scene("meadow", "day", "clear", "natural", (Thing("cat", "red", side="left"),), seed=1)
    seen = sightings(render(drawn))
    asked = (Thing("cat", "blue", side="right"), Thing("house", "red", side="centre"))
    verdicts = agreement(asked, seen)
    assert verdicts["presence"] == [True, False]
    assert verdicts["colour"] == [False, False]
    assert verdicts["side"] == [False, False]


def test_the_model_paints_what_it_is_asked(painter: Painter) -> None:
    scenes: Sequence[Scene] = [
        Scene("sea", "night", "clear", "natural", (Thing("boat", "red", side="left"),)),
        Scene("meadow", "day", "clear", "natural", (Thing("house", "blue", side="centre"),)),
        Scene("desert", "sunset", "clear", "natural", (Thing("tent", "green", side="right"),)),
    ]
    prompts = [full_caption(scene, random.Random(1)) for scene in scenes]
    images = painter.paint(prompts, range(3), 5.0)
    times = [time_of_day(image) == scene.time for image, scene in zip(images, scenes, strict=True)]
    colours = [
        right
        for image, scene in zip(images, scenes, strict=True)
        for right in agreement(scene.things, sightings(image))["colour"]
    ]
    assert sum(times) + sum(colours) >= 5


def test_seeds_and_prompts_matter(painter: Painter) -> None:
    first, second, other = (
        np.asarray(image, np.float32)
        for image in painter.paint(["a red house", "a red house", "the sea at night"], [1, 2, 1], 5.0)
    )
    assert np.abs(first - second).mean() > 2
    assert np.abs(first - other).mean() > 10


@pytest.mark.parametrize(("width", "height"), [(256, 192), (200, 264)])
def test_other_sizes_run(painter: Painter, width: int, height: int) -> None:
    images = painter.pipeline(
        "mountains at dawn",
        width=width,
        height=height,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).images
    assert images[0].size == (width, height)


def test_the_model_card_states_its_limits() -> None:
    card = Path(CHECKPOINT / "README.md").read_text(encoding="utf-8")
    for heading in ("## Vocabulary", "## Training", "## Figures", "## Limits"):
        assert heading in card


def _verdicts(scene: Scene, size: tuple[int, int]) -> list[bool]:
    image = render(scene, *size)
    found = agreement(scene.things, sightings(image))
    right = [time_of_day(image) == scene.time, palette(image) == scene.palette]
    return right + found["presence"] + found["colour"] + found["side"]

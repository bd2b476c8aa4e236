"""Training data, drawn by worker processes while the GPU trains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from assets.training.captions import caption
from assets.training.renderer import render
from assets.training.scene import SIDES, training_scene, turns
from assets.training.tokenizer import MAX_TOKENS

SIZES = ((256, 256), (256, 192), (192, 256))
"""Width and height of the pictures trained on; the first is the checkpoint's own."""

SIZE_CYCLE = (1, 2, 0, 0, 0, 0, 0, 0, 0, 0)
"""Which of the sizes each of ten chunks in a row has: all of them early, so that training can start."""

CAPTIONS = 8
"""Captions written for each picture; training picks one each time it sees the picture."""

TURNS = len(SIDES)
"""Pictures of a scene, alike but for where its objects stand, with captions alike but for the side: what
differs between them is the side alone. They follow each other in a chunk."""

CHUNK = 42 * TURNS

_tokenizer: CLIPTokenizer | None = None


@dataclass(frozen=True)
class Chunk:
    """Pictures of one size: `images` uint8 [n, height, width, 3], `tokens` int16 [n, CAPTIONS, 77]."""

    size: tuple[int, int]
    images: np.ndarray
    tokens: np.ndarray


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token ids int16 [n, 77], padded and cut as diffusers' pipeline does it."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="np"
    )
    return encoded.input_ids.astype(np.int16)


def chunks(tokenizer_folder: Path, count: int, workers: int, seed: int) -> Iterator[Chunk]:
    """Draw about `count` captioned pictures of training scenes, in chunks, in no fixed order."""
    jobs = [seed * 1_000_000 + index for index in range(max(len(SIZES), count // CHUNK))]
    with get_context("spawn").Pool(workers, _start_worker, (tokenizer_folder,)) as pool:
        yield from pool.imap_unordered(_draw_chunk, jobs)


def _start_worker(tokenizer_folder: Path) -> None:
    global _tokenizer
    _tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)


def _draw_chunk(seed: int) -> Chunk:
    assert _tokenizer is not None
    rng = random.Random(seed)
    size = SIZES[SIZE_CYCLE[seed % len(SIZE_CYCLE)]]
    scenes, texts = [], []
    for _ in range(CHUNK // TURNS):
        wordings = [rng.getrandbits(32) for _ in range(CAPTIONS)]
        for scene in turns(training_scene(rng)):
            scenes.append(scene)
            texts += [caption(scene, random.Random(wording)) for wording in wordings]
    images = np.stack([np.asarray(render(scene, *size)) for scene in scenes])
    return Chunk(size, images, tokenize(_tokenizer, texts).reshape(CHUNK, CAPTIONS, MAX_TOKENS))

"""Measure how far the checkpoint's pictures agree with their prompts, by pixels alone.

    python -m assets.training.evaluate --prompts 500
    python -m assets.training.evaluate --ground-truth --prompts 500

The prompts describe scenes with a combination of place, time, object and colour that training never saw. With
--ground-truth the renderer draws the scenes instead of the model: what the checkers themselves get wrong.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
from PIL import Image

from assets.training.captions import PLACE_WORDS, TIME_WORDS, full_caption
from assets.training.checkers import agreement, palette, sightings, time_of_day
from assets.training.painter import CHECKPOINT, Painter, Settings
from assets.training.renderer import render
from assets.training.scene import PLACES, TIMES, Scene, held_out_scene

REQUIRED = ("time", "palette", "presence", "colour", "side")
"""The attributes that make the overall figure; counts are reported beside them."""


def check(image: Image.Image, scene: Scene) -> dict[str, list[bool]]:
    """Each attribute's verdicts for one picture."""
    verdicts = agreement(scene.things, sightings(image))
    return {
        "time": [time_of_day(image) == scene.time],
        "palette": [palette(image) == scene.palette],
        **verdicts,
    }


def shares(pool: Pool, images: Sequence[Image.Image], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of right verdicts for each attribute, and over all required ones."""
    verdicts = pool.starmap(check, zip(images, scenes, strict=True), chunksize=8)
    totals: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        for attribute, right in verdict.items():
            totals[attribute] += right
            totals["overall"] += right if attribute in REQUIRED else []
    return {attribute: round(float(np.mean(right)), 4) for attribute, right in totals.items()}


def held_out(count: int) -> tuple[list[Scene], list[str]]:
    """Scenes that training never saw, and their prompts; always the same ones."""
    rng = random.Random(7)
    scenes = [held_out_scene(rng) for _ in range(count)]
    return scenes, [full_caption(scene, rng) for scene in scenes]


def seed_distance(painter: Painter, guidance: float) -> float:
    """The least mean absolute difference (of 255) between any two of eight seeds, over four prompts."""
    least = 255.0
    for prompt in ("mountains at dawn", "a red house in a meadow", "a whale", "city at night, rain"):
        images = [np.asarray(i, np.float32) for i in painter.paint([prompt] * 8, range(8), guidance)]
        least = min(least, *(float(np.abs(a - b).mean()) for n, a in enumerate(images) for b in images[:n]))
    return round(least, 2)


def negative_prompts(pool: Pool, painter: Painter, guidance: float, count: int) -> dict[str, float]:
    """How often an object that nobody asked for goes when the negative prompt names it.

    `removed` is that share; `removed_by_another_word` the share that goes, same seed, when the negative
    prompt names something else.
    """
    rng = random.Random(11)
    prompts = [
        f"{rng.choice(PLACE_WORDS[rng.choice(PLACES)])} {rng.choice(TIME_WORDS[rng.choice(TIMES)])}"
        for _ in range(count)
    ]
    seeds = list(range(1000, 1000 + count))
    seen = pool.map(kinds_in, painter.paint(prompts, seeds, guidance))
    cases = [
        (prompt, seed, min(kinds)) for prompt, seed, kinds in zip(prompts, seeds, seen, strict=True) if kinds
    ]
    asked, drawn, named = [c[0] for c in cases], [c[1] for c in cases], [c[2] for c in cases]
    paint = partial(painter.paint, asked, drawn, guidance)
    with_name = pool.map(kinds_in, paint(named))
    with_other = pool.map(kinds_in, paint(["snowman"] * len(cases)))
    return {
        "cases": len(cases),
        "removed": _share(name not in kinds for name, kinds in zip(named, with_name, strict=True)),
        "removed_by_another_word": _share(
            name not in kinds for name, kinds in zip(named, with_other, strict=True)
        ),
    }


def kinds_in(image: Image.Image) -> set[str]:
    """The kinds of object seen in a picture."""
    return {sighting.kind for sighting in sightings(image)}


def _share(right: Iterator[bool]) -> float:
    return round(float(np.mean(list(right))), 4)


def main() -> None:
    """Run the evaluation and print it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument(
        "--guidance", type=float, nargs="+", default=[1, 4, 7], help="the last serves the other tests"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument(
        "--ground-truth", action="store_true", help="check the renderer's pictures, not the model's"
    )
    options = parser.parse_args()
    with get_context("spawn").Pool() as pool:
        report = ground_truth(pool, options.prompts) if options.ground_truth else evaluate(pool, options)
    print(json.dumps(report, indent=2))


def ground_truth(pool: Pool, count: int) -> dict[str, float]:
    """The checkers' verdicts on the renderer's own pictures."""
    scenes, _ = held_out(count)
    return shares(pool, [render(scene) for scene in scenes], scenes)


def evaluate(pool: Pool, options: argparse.Namespace) -> dict[str, object]:
    """All of the model's figures."""
    painter = Painter(Settings(options.checkpoint, options.device, options.steps, options.batch))
    scenes, prompts = held_out(options.prompts)
    report: dict[str, object] = {"prompts": len(prompts), "steps": options.steps}
    for guidance in options.guidance:
        images = painter.paint(prompts, range(len(prompts)), guidance)
        report[f"guidance {guidance:g}"] = shares(pool, images, scenes)
        print(json.dumps(report), flush=True)
    strongest = options.guidance[-1]
    report["least difference between seeds"] = seed_distance(painter, strongest)
    report["negative prompt"] = negative_prompts(pool, painter, strongest, min(400, 2 * options.prompts))
    return report


if __name__ == "__main__":
    main()

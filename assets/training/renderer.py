"""Draws a scene: sky, land, water, trees, objects, weather, from back to front."""

from __future__ import annotations

import random

from PIL import Image

from assets.training.canvas import Canvas
from assets.training.ink import ink_for
from assets.training.land import below, draw_land, draw_tree, draw_water, ridge
from assets.training.palette import BLACK, WHITE, lit, mix
from assets.training.scene import SIDES, WATER_PLACES, Scene, Thing, layer_of
from assets.training.sky import Tones, draw_sky, tones_for
from assets.training.things import DRAW

SIDE_X = {"left": 0.2, "centre": 0.5, "right": 0.8}
"""Where each side's middle lies, as a share of the picture's width."""

HORIZON = 0.56
SHORE = 0.79


def render(scene: Scene, width: int = 256, height: int = 256) -> Image.Image:
    """Draw `scene`; the same scene and size give the same pixels. Returns RGB [height, width]."""
    rng = random.Random(scene.seed)
    canvas = Canvas(width, height)
    tones = tones_for(scene)
    wet = scene.place in WATER_PLACES
    horizon = (HORIZON - (0.04 if wet else 0.0)) * height
    light = draw_sky(canvas, scene, tones, rng, horizon)
    draw_land(canvas, scene, tones, rng, horizon)
    shore = SHORE * height
    if wet:
        draw_water(canvas, tones, rng, horizon, shore + 8, light, mirror=scene.place == "lake")
    _draw_things(canvas, scene, "water", rng)
    _draw_ground(canvas, scene, tones, rng, shore)
    _draw_birds(canvas, scene, tones, rng)
    _draw_things(canvas, scene, "sky", rng)
    _draw_things(canvas, scene, "ground", rng)
    _draw_weather(canvas, scene, rng)
    return canvas.picture()


def _draw_ground(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, shore: float) -> None:
    """The foreground, with trees behind it and small tufts on it."""
    if scene.trees:
        _draw_trees(canvas, scene, tones, rng, shore)
    ground = tones.land[3]
    skyline = ridge(canvas, rng, shore, 4, 0.0)
    canvas.shape(
        below(canvas, skyline), (mix(ground, WHITE, 0.10), mix(ground, BLACK, 0.10)), shore, canvas.height
    )
    for _ in range(7):
        x, y = rng.uniform(0, canvas.width), rng.uniform(shore + 14, canvas.height - 4)
        canvas.rectangle(x - 7, y, x + 7, y + 1.6, mix(ground, BLACK, 0.10), 0.8)


def _draw_trees(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, shore: float) -> None:
    """Trees along the far edge of the ground, more of them in a forest."""
    count = rng.choice((5, 6, 7)) if scene.place == "forest" else rng.choice((2, 3, 4))
    afloat = [SIDE_X[thing.side] for thing in scene.things if thing.side and layer_of(thing.kind) == "water"]
    for x in sorted(rng.uniform(0.02, 0.98) for _ in range(count)):
        if any(abs(x - taken) < 0.2 for taken in afloat):
            continue  # nothing on the water is hidden
        draw_tree(canvas, scene.trees or "pine", x * canvas.width, shore + 6, rng.uniform(48, 72), tones)


def _draw_things(canvas: Canvas, scene: Scene, layer: str, rng: random.Random) -> None:
    for thing in scene.things:
        if layer_of(thing.kind) == layer:
            for side in _sides(thing, rng):
                _draw_thing(canvas, scene, thing, side, rng)


def _sides(thing: Thing, rng: random.Random) -> list[str]:
    if thing.count == 1:
        return [thing.side or rng.choice(SIDES)]
    return sorted(rng.sample(SIDES, thing.count), key=SIDES.index)


def _draw_thing(canvas: Canvas, scene: Scene, thing: Thing, side: str, rng: random.Random) -> None:
    draw, size = DRAW[thing.kind]
    size *= min(canvas.width, canvas.height) / 256 * rng.uniform(0.92, 1.08)
    x = SIDE_X[side] * canvas.width + rng.uniform(-6, 6)
    layer = layer_of(thing.kind)
    low, high = {"sky": (0.2, 0.33), "water": (0.70, 0.76), "ground": (0.88, 0.95)}[layer]
    y = rng.uniform(low, high) * canvas.height
    if layer == "ground":
        canvas.ellipse(x, y, 0.46 * size, 3, mix(tones_for(scene).land[3], BLACK, 0.22))
    draw(canvas, x, y, size, ink_for(thing.colour, scene.time))
    if layer == "water":
        canvas.rectangle(
            x - 0.52 * size, y - 1, x + 0.52 * size, y + 1.5, mix(tones_for(scene).water, WHITE, 0.5), 1
        )


def _draw_birds(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random) -> None:
    """A small flock in the sky."""
    if not scene.birds:
        return
    x, y = rng.uniform(0.25, 0.75) * canvas.width, rng.uniform(0.12, 0.36) * canvas.height
    colour = mix(BLACK, tones.sky[0], 0.2)
    for index in range(5):
        bx = x + (index - 2) * 15 + rng.uniform(-3, 3)
        by = y + abs(index - 2) * 7 + rng.uniform(-2, 2)
        canvas.line(
            [(bx - 6, by - 3.5), (bx - 2.5, by - 4.5), (bx, by), (bx + 2.5, by - 4.5), (bx + 6, by - 3.5)],
            colour,
            1.5,
        )


def _draw_weather(canvas: Canvas, scene: Scene, rng: random.Random) -> None:
    """Rain or snow in front of everything."""
    if scene.weather == "rain":
        for _ in range(60):
            x, y = rng.uniform(0, canvas.width + 10), rng.uniform(-8, canvas.height)
            canvas.line(
                [(x, y), (x - 4, y + 13)],
                lit((214, 226, 240), (0.8,) * 3 if scene.time == "night" else (1.0,) * 3),
                1,
            )
    elif scene.weather == "snow":
        for _ in range(90):
            r = rng.choice((1.2, 1.6, 2.3))
            canvas.ellipse(rng.uniform(0, canvas.width), rng.uniform(0, canvas.height), r, r, (250, 252, 255))

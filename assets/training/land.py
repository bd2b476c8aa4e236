"""Land and water, in layers that fade into the distance, and what grows or is built there."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from assets.training.canvas import Canvas, Points
from assets.training.palette import BLACK, LAMP, RGB, WHITE, lit, mix
from assets.training.scene import Scene
from assets.training.sky import Tones


def ridge(canvas: Canvas, rng: random.Random, y: float, rise: float, roughness: float) -> Points:
    """A skyline from edge to edge around height `y`: smooth hills (roughness 0) to jagged peaks (1)."""
    x = np.linspace(0, canvas.width, 97)
    u = x / 256
    smooth = sum(
        np.sin(2 * np.pi * (frequency * u + rng.random())) / frequency**0.8 for frequency in (0.8, 1.7, 2.9)
    )
    heights = smooth * (1 - 0.8 * roughness)
    if roughness:
        corners = np.linspace(-0.2, canvas.width / 256 + 0.2, round(7 * canvas.width / 256) + 3)
        corners = corners + [rng.uniform(-0.06, 0.06) for _ in corners]
        peaks = [(1.3 if i % 2 else -0.8) + rng.uniform(-0.7, 0.5) for i in range(len(corners))]
        heights = heights + roughness * np.interp(u, corners + rng.uniform(-0.1, 0.1), peaks)
    return list(zip(x.tolist(), (y - rise * heights / 1.6).tolist(), strict=True))


def below(canvas: Canvas, skyline: Points) -> Points:
    """The polygon from a skyline down to the bottom of the picture."""
    return [*skyline, (canvas.width, canvas.height), (0, canvas.height)]


def draw_land(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float) -> None:
    """Draw everything between the sky and the ground on which objects stand."""
    {
        "mountains": _mountains,
        "sea": _islands,
        "desert": _desert,
        "forest": _forest,
        "meadow": _hills,
        "city": _city,
        "lake": _mountains,
        "winter": _hills,
    }[scene.place](canvas, scene, tones, rng, horizon)


def _mountains(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float) -> None:
    snow = mix(lit(WHITE, tones.light), tones.haze, 0.15)
    for layer, (lift, rise) in enumerate(((34, 40), (12, 28))):
        skyline = ridge(canvas, rng, horizon - lift, rise, 1.0)
        top = min(y for _, y in skyline)
        colour = tones.land[layer]
        canvas.shape(below(canvas, skyline), (colour, mix(colour, tones.haze, 0.45)), top, horizon + 10)
        if layer == 0:
            _snowcaps(canvas, skyline, snow, top)
    if scene.place == "mountains":
        _layer(canvas, ridge(canvas, rng, horizon + 6, 9, 0.0), tones.land[2], tones.haze)


def _snowcaps(canvas: Canvas, skyline: Points, snow: RGB, top: float) -> None:
    """White above the snow line, its lower edge in zigzag."""
    for start in range(0, len(skyline) - 1):
        (x0, y0), (x1, y1) = skyline[start], skyline[start + 1]
        edge0, edge1 = (top + 15 + 5 * ((start + i) % 4 - 1.5 if (start + i) % 4 < 3 else 0) for i in (0, 1))
        if y0 < edge0 or y1 < edge1:
            canvas.polygon([(x0, y0), (x1, y1), (x1, max(y1, edge1)), (x0, max(y0, edge0))], snow)


def _layer(canvas: Canvas, skyline: Points, colour: RGB, haze: RGB) -> None:
    """One band of land, slightly hazier towards its foot."""
    top = min(y for _, y in skyline)
    canvas.shape(below(canvas, skyline), (mix(colour, WHITE, 0.05), mix(colour, haze, 0.16)), top, top + 60)


def _hills(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float) -> None:
    for layer, (lift, rise) in enumerate(((22, 18), (6, 15), (-12, 11))):
        _layer(canvas, ridge(canvas, rng, horizon - lift, rise, 0.0), tones.land[layer], tones.haze)


def _desert(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float) -> None:
    for _ in range(2):
        x, width, height = rng.uniform(0.05, 0.95) * canvas.width, rng.uniform(26, 44), rng.uniform(26, 46)
        slope = 0.25 * width
        foot, top = horizon + 12, horizon - height
        canvas.polygon(
            [(x - width, foot), (x - width + slope, top), (x + width - slope, top), (x + width, foot)],
            tones.land[0],
        )
    for layer, (lift, rise) in enumerate(((4, 14), (-10, 11)), start=1):
        _layer(canvas, ridge(canvas, rng, horizon - lift, rise, 0.12), tones.land[layer], tones.haze)


def _islands(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float) -> None:
    for _ in range(rng.choice((0, 1, 2))):
        x, width, height = rng.uniform(0, 1) * canvas.width, rng.uniform(26, 52), rng.uniform(8, 18)
        arc = np.linspace(np.pi, 2 * np.pi, 20)
        canvas.polygon(
            [(x + width * np.cos(a), horizon + 1 + height * np.sin(a)) for a in arc], tones.land[0]
        )


def _forest(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float) -> None:
    for layer, (lift, height) in enumerate(((26, 44), (8, 52))):
        colour, foot = tones.land[layer], horizon - lift + 40
        x = rng.uniform(-20, 0)
        while x < canvas.width + 20:
            size = height * rng.uniform(0.8, 1.3)
            if scene.trees == "pine":
                canvas.polygon(
                    [(x - 0.3 * size, foot), (x, foot - 1.5 * size), (x + 0.3 * size, foot)], colour
                )
            else:
                canvas.ellipse(x, foot - 0.8 * size, 0.36 * size, 0.42 * size, colour)
                canvas.rectangle(x - 2, foot - 0.6 * size, x + 2, foot, colour)
            x += rng.uniform(0.24, 0.42) * size
        canvas.rectangle(0, foot - 24, canvas.width, foot + 40, colour)
    _layer(canvas, ridge(canvas, rng, horizon + 22, 6, 0.0), tones.land[2], tones.haze)


def _city(canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float) -> None:
    window = (
        mix(LAMP, tones.land[2], 0.1)
        if scene.time in ("night", "sunset")
        else mix(tones.land[2], WHITE, 0.35)
    )
    for layer, (low, high) in enumerate(((46, 96), (24, 62))):
        colour, x = tones.land[layer + (layer > 0)], rng.uniform(-20, 0)
        while x < canvas.width:
            width, top = rng.uniform(18, 32), horizon + 20 - rng.uniform(low, high)
            canvas.rectangle(x, top, x + width, horizon + 30, colour)
            roof = rng.random()
            if roof < 0.25:
                canvas.polygon([(x, top), (x + width / 2, top - 10), (x + width, top)], colour)
            elif roof < 0.4:
                canvas.rectangle(x + width / 2 - 1, top - 12, x + width / 2 + 1, top, colour)
            if layer == 1:
                for wx in np.arange(x + 4, x + width - 5, 7):
                    for wy in np.arange(top + 5, horizon + 12, 9):
                        if rng.random() < 0.6:
                            canvas.rectangle(wx, wy, wx + 3, wy + 4.5, window)
            x += width + rng.uniform(-3, 5)
    canvas.rectangle(0, horizon + 20, canvas.width, canvas.height, tones.land[3])


def draw_water(
    canvas: Canvas,
    tones: Tones,
    rng: random.Random,
    top: float,
    bottom: float,
    light: tuple[float, float] | None,
    mirror: bool,
) -> None:
    """Water from y = `top` to `bottom`: waves, the light's glitter, and for a lake the land's reflection."""
    deep = mix(tones.water, BLACK, 0.16)
    box = [(0, top), (canvas.width, top), (canvas.width, bottom), (0, bottom)]
    reflection = canvas.region((0, top - 60, canvas.width, top)) if mirror else None
    canvas.shape(box, (mix(tones.water, tones.haze, 0.35), tones.water, deep), top, bottom)
    if reflection:
        flipped = reflection.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        fade = Image.linear_gradient("L").transpose(Image.Transpose.FLIP_TOP_BOTTOM).point(lambda v: v * 0.5)
        canvas.paste(flipped, 0, top, fade.resize(flipped.size))
    crest = mix(tones.water, lit(WHITE, tones.light), 0.4)
    for _ in range(16):
        x, depth = rng.uniform(0, canvas.width), rng.uniform(0.08, 0.95)
        y, length = top + depth * (bottom - top), 5 + 16 * depth * rng.uniform(0.6, 1.2)
        canvas.rectangle(x - length, y, x + length, y + 1.3, crest, 0.6)
    if light:
        for step in range(9):
            y = top + 3 + (step / 9) ** 1.2 * (bottom - top - 4)
            half = (4 + 1.8 * step) * rng.uniform(0.5, 1.2)
            x = light[0] + rng.uniform(-8, 8)
            canvas.rectangle(x - half, y, x + half, y + 2, mix(tones.water, (255, 244, 210), 0.72), 1)


def draw_tree(canvas: Canvas, kind: str, x: float, y: float, size: float, tones: Tones) -> None:
    """A tree (or cactus) of height `size` standing at (x, y)."""
    trunk = lit((124, 92, 72), tones.light)
    leaf = tones.leaf
    bright = mix(leaf, WHITE, 0.12)
    if kind == "pine":
        canvas.rectangle(x - 0.04 * size, y - 0.2 * size, x + 0.04 * size, y, trunk)
        for low, high, half in ((0.12, 0.55, 0.27), (0.35, 0.78, 0.22), (0.6, 1.0, 0.16)):
            canvas.polygon(
                [(x - half * size, y - low * size), (x, y - high * size), (x + half * size, y - low * size)],
                leaf,
            )
            canvas.polygon(
                [(x, y - low * size), (x, y - high * size), (x + half * size, y - low * size)], bright
            )
    elif kind in ("round", "cherry"):
        crown = lit((244, 182, 204), tones.light) if kind == "cherry" else leaf
        canvas.rectangle(x - 0.045 * size, y - 0.5 * size, x + 0.045 * size, y, trunk)
        for dx, dy, r in ((-0.18, 0.58, 0.2), (0.18, 0.56, 0.2), (0.0, 0.76, 0.24)):
            canvas.ellipse(x + dx * size, y - dy * size, r * size, r * size, crown)
        canvas.ellipse(x + 0.06 * size, y - 0.78 * size, 0.13 * size, 0.12 * size, mix(crown, WHITE, 0.18))
    elif kind == "palm":
        canvas.line(
            [(x, y), (x + 0.05 * size, y - 0.4 * size), (x + 0.02 * size, y - 0.8 * size)], trunk, 0.07 * size
        )
        green = mix(lit((96, 150, 110), tones.light), leaf, 0.5)
        for dx, dy in ((-0.4, 0.12), (-0.3, -0.14), (0.0, -0.22), (0.32, -0.12), (0.42, 0.14)):
            cx, cy = x + 0.02 * size, y - 0.8 * size
            tip = (cx + dx * size, cy + dy * size)
            canvas.polygon(
                [
                    (cx, cy),
                    (cx + 0.5 * dx * size, cy + dy * 0.4 * size - 0.14 * size),
                    tip,
                    (cx + 0.5 * dx * size, cy + dy * 0.4 * size - 0.02 * size),
                ],
                green,
            )
    else:
        green = mix(lit((104, 146, 116), tones.light), leaf, 0.25)
        canvas.rectangle(x - 0.08 * size, y - 0.9 * size, x + 0.08 * size, y, green, 0.08 * size)
        for side, low, high in ((-1, 0.34, 0.66), (1, 0.46, 0.78)):
            arm = x + side * 0.24 * size
            canvas.rectangle(
                min(x, arm), y - (low + 0.1) * size, max(x, arm), y - low * size, green, 0.04 * size
            )
            canvas.rectangle(
                arm - 0.05 * size, y - high * size, arm + 0.05 * size, y - low * size, green, 0.05 * size
            )

"""The colours of one scene's scenery, and its sky: sun or moon, stars, rainbow, clouds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from assets.training.canvas import Canvas
from assets.training.palette import BLACK, LAND, LIGHT, MOOD, RGB, SKY, WATER, WHITE, lit, mix
from assets.training.scene import Scene

GREY: RGB = (168, 176, 190)


@dataclass(frozen=True)
class Tones:
    """The colours of one scene's scenery, under its light and weather."""

    sky: tuple[RGB, RGB, RGB]
    land: tuple[RGB, ...]  # far, middle, near, ground
    water: RGB
    leaf: RGB
    light: RGB

    @property
    def haze(self) -> RGB:
        """What distant things fade into: the sky at the horizon."""
        return self.sky[2]


def tones_for(scene: Scene) -> Tones:
    """The scenery's colours for a place, palette, time of day and weather."""
    light = LIGHT[scene.time]
    grey = {"clear": 0.0, "cloudy": 0.12, "rain": 0.3, "snow": 0.22}[scene.weather]
    overcast = lit(GREY, light)
    top, middle, low = (mix(stop, overcast, grey) for stop in SKY[scene.time])
    day = LAND[scene.place] if scene.palette == "natural" else MOOD[scene.palette]
    hazes = (0.42, 0.2, 0.06, 0.0)
    land = tuple(mix(lit(colour, light), low, haze) for colour, haze in zip(day, hazes, strict=True))
    water = mix(lit(WATER[scene.palette], light), low, 0.15)
    grey_land = scene.palette == "natural" and scene.place in ("city", "winter")
    leaf = mix(lit(LAND["forest"][2], light) if grey_land else land[2], BLACK, 0.22)
    return Tones((top, middle, low), land, water, leaf, light)


def draw_sky(
    canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float
) -> tuple[float, float] | None:
    """Draw the sky with sun or moon, stars, rainbow and clouds; returns where the light stands."""
    canvas.sky(tones.sky, horizon)
    if scene.stars:
        for _ in range(60):
            x, y, r = rng.uniform(0, canvas.width), rng.uniform(0, 0.8 * horizon), rng.choice((0.7, 0.9, 1.5))
            canvas.ellipse(x, y, r, r, mix(tones.sky[0], WHITE, 0.85))
    if scene.rainbow:
        _rainbow(canvas, tones, horizon)
    light = _sun_or_moon(canvas, scene, tones, rng, horizon) if scene.light_side else None
    if scene.weather != "clear":
        for _ in range(5):
            x, y = rng.uniform(-0.05, 1.05) * canvas.width, rng.uniform(0.08, 0.5) * horizon
            _cloud(
                canvas,
                x,
                y,
                rng.uniform(26, 44),
                mix(mix(tones.sky[1], lit(WHITE, tones.light), 0.62), tones.sky[0], 0.1),
            )
    return light


def _sun_or_moon(
    canvas: Canvas, scene: Scene, tones: Tones, rng: random.Random, horizon: float
) -> tuple[float, float]:
    x = {"left": 0.2, "centre": 0.5, "right": 0.8}[scene.light_side or "centre"] * canvas.width + rng.uniform(
        -8, 8
    )
    low = scene.time in ("dawn", "sunset")
    y = horizon * (rng.uniform(0.66, 0.82) if low else rng.uniform(0.2, 0.34))
    if scene.time == "night":
        canvas.glow(x, y, 70, (170, 180, 230), 0.55)
        canvas.ellipse(x, y, 17, 17, (250, 246, 226))
        if scene.crescent:
            canvas.ellipse(x + 8, y - 5, 15, 15, mix(tones.sky[0], (170, 180, 230), 0.3))
        else:
            for dx, dy, r in ((-5, -4, 4), (5, 3, 3), (-2, 7, 2.5)):
                canvas.ellipse(x + dx, y + dy, r, r, (228, 222, 204))
        return x, y
    colour: RGB = {"dawn": (255, 240, 206), "day": (255, 244, 186), "sunset": (255, 232, 168)}[scene.time]
    canvas.glow(x, y, 120 if low else 80, colour, 0.75)
    radius = 24 if low else 19
    canvas.ellipse(x, y, radius, radius, colour)
    return x, y


def _rainbow(canvas: Canvas, tones: Tones, horizon: float) -> None:
    bands: tuple[RGB, ...] = (
        (236, 110, 110),
        (244, 172, 110),
        (246, 226, 130),
        (140, 206, 150),
        (120, 180, 232),
        (170, 140, 214),
    )
    for index, band in enumerate(bands):
        radius = 0.48 * canvas.width - 4 * index
        canvas.arc(canvas.width / 2, horizon, radius, 180, 360, mix(band, tones.sky[1], 0.35), 5)


def _cloud(canvas: Canvas, x: float, y: float, size: float, colour: RGB) -> None:
    for dx, dy, r in ((-0.62, 0.04, 0.3), (-0.2, -0.16, 0.42), (0.28, -0.08, 0.36), (0.66, 0.06, 0.26)):
        canvas.ellipse(x + dx * size, y + dy * size, r * size, 0.72 * r * size, colour)
    canvas.rectangle(x - 0.86 * size, y, x + 0.88 * size, y + 0.26 * size, colour, 0.13 * size)

"""Read a picture's attributes from its pixels alone.

Nothing here is learnt. The sky's colours give the time of day, the ground's give the palette, and an object
is where the pixels of one colour have the outline of one kind: the renderer's outline, slid over the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from assets.training.canvas import Canvas
from assets.training.ink import ink_for
from assets.training.palette import LAND, LIGHT, MOOD, OBJECT, OBJECT_LIGHT, SKY, lit, shaded
from assets.training.scene import COLOURS, KINDS, PALETTES, SKY_KINDS, TIMES, Thing
from assets.training.things import DRAW

COLOUR_DISTANCE = 46.0
"""How far, in RGB, a pixel may lie from an object's colour and still count as it."""

MATCH = 0.5
"""The least overlap (intersection over union) of a colour's pixels with an outline that makes an object."""

SCALES = (0.9, 1.0, 1.1)
MARGIN = 4  # pixels around an outline, at half size, that must not have its colour: a sunset is no object
REDUCTION = 2  # pictures are searched at half size


@dataclass(frozen=True)
class Sighting:
    """An object found: its middle as shares of the picture's width and height, and its match, 0 to 1."""

    kind: str
    colour: str
    x: float
    y: float
    match: float

    @property
    def side(self) -> str:
        """left, centre or right."""
        return "left" if self.x < 0.35 else "right" if self.x > 0.65 else "centre"


def time_of_day(image: Image.Image) -> str:
    """The time whose sky, clear or overcast, is nearest to the median pixel of the sky's upper half."""
    pixels = np.asarray(image, np.float32)
    rows = np.linspace(0.02, 0.26, 16)
    seen = pixels[(rows * len(pixels)).astype(int), ::4]

    def distance(time: str) -> float:
        sky = _expected_sky(time, rows)
        overcast = 168 * np.array(LIGHT[time])
        greyed = [sky + share * (overcast - sky) for share in (0.0, 0.12, 0.26)]
        nearest = np.min([np.abs(seen - tone[:, None]).sum(-1) for tone in greyed], 0)
        return float(np.median(nearest))

    return min(TIMES, key=distance)


def _expected_sky(time: str, rows: np.ndarray) -> np.ndarray:
    at = np.linspace(0, 0.55, 3)
    return np.stack([np.interp(rows, at, [stop[c] for stop in SKY[time]]) for c in range(3)], -1)


def palette(image: Image.Image) -> str:
    """The palette whose ground, in the light of the time of day, is nearest to the picture's lowest rows."""
    pixels = np.asarray(image, np.float32)
    rows = pixels[int(0.955 * len(pixels)) :].reshape(-1, 3)
    seen = np.median(rows, 0)
    light = LIGHT[time_of_day(image)]

    def distance(name: str) -> float:
        grounds = [MOOD[name][3]] if name != "natural" else [land[3] for land in LAND.values()]
        return min(float(np.abs(seen - 0.93 * np.array(lit(ground, light))).sum()) for ground in grounds)

    return min(PALETTES, key=distance)


def sightings(image: Image.Image) -> list[Sighting]:
    """Every object in the picture, best match first; no two in one place."""
    pixels = np.asarray(image.reduce(REDUCTION), np.float32)
    labels = _nearest_colours(pixels, time_of_day(image))
    scale = min(image.size) / 256
    found: list[Sighting] = []
    for index, colour in enumerate(COLOURS):
        mask = labels == index
        if mask.sum() >= 40:
            found += _search(mask.astype(np.float32), colour, scale)
    found.sort(key=lambda sighting: -sighting.match)
    kept: list[Sighting] = []
    for sighting in found:
        if all(abs(sighting.x - other.x) > 0.15 or abs(sighting.y - other.y) > 0.2 for other in kept):
            kept.append(sighting)
    return kept


def _nearest_colours(pixels: np.ndarray, time: str) -> np.ndarray:
    """Index into COLOURS of each pixel under the light of `time`, -1 where none is near."""
    best = np.full(pixels.shape[:2], COLOUR_DISTANCE, np.float32)
    labels = np.full(pixels.shape[:2], -1)
    for index, colour in enumerate(COLOURS):
        main = lit(OBJECT[colour], OBJECT_LIGHT[time])
        for shade in (main, shaded(main)):
            distance = np.sqrt(((pixels - np.array(shade, np.float32)) ** 2).sum(-1))
            nearer = distance < best
            best[nearer], labels[nearer] = distance[nearer], index
    return labels


def _search(mask: np.ndarray, colour: str, scale: float) -> list[Sighting]:
    """Where `mask` (float32 [h, w] of 0 and 1) has the outline of a kind."""
    height, width = mask.shape
    spectrum = np.fft.rfft2(mask, s=(2 * height, 2 * width))
    overlaps: dict[str, np.ndarray] = {}
    for kind in KINDS:
        for size in SCALES:
            outline, middle = _outline(kind, round(100 * size * scale))
            overlap = _overlap(spectrum, mask.shape, outline, middle)
            overlaps[kind] = np.maximum(overlaps.get(kind, np.zeros(1, np.float32)), overlap)
    found = []
    for kind, overlap in overlaps.items():
        overlap = overlap.copy()
        while (best := float(overlap.max())) >= MATCH:
            y, x = np.unravel_index(int(overlap.argmax()), overlap.shape)
            sighting = Sighting(kind, colour, float(x) / width, float(y) / height, best)
            if (kind in SKY_KINDS) == (sighting.y < 0.5):  # nothing drives through the sky
                found.append(sighting)
            overlap[max(0, y - height // 5) : y + height // 5, max(0, x - width // 7) : x + width // 7] = 0
    return found


def _overlap(
    spectrum: np.ndarray, shape: tuple[int, int], outline: np.ndarray, middle: tuple[int, int]
) -> np.ndarray:
    """Intersection over union of mask and outline, for the outline's middle at each pixel."""
    size = (2 * shape[0], 2 * shape[1])

    def slide(window: np.ndarray) -> np.ndarray:
        product = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(window, s=size)), s=size)
        return np.roll(product, middle, (0, 1))[: shape[0], : shape[1]]

    shared = slide(outline)
    union = outline.sum() + slide(np.ones_like(outline)) - shared
    return np.asarray(shared / np.maximum(union, 1), np.float32)


@cache
def _outline(kind: str, percent: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A kind's pixels of its own colour, at `percent` of its size and half resolution, and their middle."""
    draw, size = DRAW[kind]
    edge = 160
    canvas = Canvas(edge, edge)
    canvas.sky([(0, 0, 0)] * 2, edge)
    draw(
        canvas,
        edge / 2,
        edge / 2 if kind in SKY_KINDS else 0.85 * edge,
        size * percent / 100,
        ink_for("red", "day"),
    )
    drawn = _nearest_colours(
        np.asarray(canvas.picture().reduce(REDUCTION), np.float32), "day"
    ) == COLOURS.index("red")
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    outline = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    outline = np.pad(outline, MARGIN)
    return outline, (outline.shape[0] // 2, outline.shape[1] // 2)


def agreement(things: Sequence[Thing], seen: Sequence[Sighting]) -> dict[str, list[bool]]:
    """For each thing asked for: is its kind there, in its colour, on its side, as often as asked.

    Colour, side and count are judged on the sightings of that kind; where there is none, they count as wrong.
    """
    verdicts: dict[str, list[bool]] = {"presence": [], "colour": [], "side": [], "count": []}
    for thing in things:
        same_kind = [sighting for sighting in seen if sighting.kind == thing.kind]
        same = [sighting for sighting in same_kind if sighting.colour == thing.colour]
        verdicts["presence"].append(bool(same_kind))
        verdicts["colour"].append(bool(same))
        if thing.side:
            verdicts["side"].append(any(sighting.side == thing.side for sighting in same or same_kind))
        verdicts["count"].append(len(same_kind) == thing.count)
    return verdicts

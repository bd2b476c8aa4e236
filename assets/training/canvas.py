"""A small anti-aliased canvas: Pillow at twice the size, brought down at the end.

Coordinates and lengths are in pixels of the finished picture, y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from assets.training.palette import RGB

SUPERSAMPLING = 2
Points = Sequence[tuple[float, float]]


class Canvas:
    """Draws filled shapes; later shapes cover earlier ones."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self._image = Image.new("RGB", self._size)
        self._draw = ImageDraw.Draw(self._image)

    def picture(self) -> Image.Image:
        """The finished picture, [height, width] RGB."""
        return self._image.reduce(SUPERSAMPLING)

    def polygon(self, points: Points, colour: RGB) -> None:
        """Fill a polygon."""
        self._draw.polygon(_scaled(points), fill=_rgb(colour))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        """Fill an ellipse with centre (x, y)."""
        (x0, y0), (x1, y1) = _scaled(((x - rx, y - ry), (x + rx, y + ry)))
        self._draw.ellipse((x0, y0, x1, y1), fill=_rgb(colour))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: RGB, radius: float = 0) -> None:
        """Fill a rectangle, its corners rounded where `radius` is given."""
        (a, b), (c, d) = _scaled(((x0, y0), (x1, y1)))
        self._draw.rounded_rectangle((a, b, c, d), radius * SUPERSAMPLING, fill=_rgb(colour))

    def arc(
        self, x: float, y: float, radius: float, start: float, end: float, colour: RGB, width: float
    ) -> None:
        """Stroke a circle's arc, inwards from `radius`; angles in degrees, clockwise from the right."""
        (x0, y0), (x1, y1) = _scaled(((x - radius, y - radius), (x + radius, y + radius)))
        self._draw.arc((x0, y0, x1, y1), start, end, fill=_rgb(colour), width=round(width * SUPERSAMPLING))

    def line(self, points: Points, colour: RGB, width: float) -> None:
        """Stroke a polyline."""
        stroke = max(1, round(width * SUPERSAMPLING))
        self._draw.line(_scaled(points), fill=_rgb(colour), width=stroke, joint="curve")

    def sky(self, stops: Sequence[RGB], bottom: float) -> None:
        """Cover everything with a vertical gradient whose last stop is reached at y = `bottom`."""
        self._image.paste(self._gradient(stops, 0, bottom))

    def shape(self, points: Points, stops: Sequence[RGB], top: float, bottom: float) -> None:
        """Fill a polygon with a vertical gradient that runs from y = `top` to `bottom`."""
        mask = Image.new("L", self._size)
        ImageDraw.Draw(mask).polygon(_scaled(points), fill=255)
        self._image.paste(self._gradient(stops, top, bottom), mask=mask)

    def glow(self, x: float, y: float, radius: float, colour: RGB, strength: float) -> None:
        """Blend towards `colour` around (x, y), most in the middle, nothing at `radius`; strength 0 to 1."""
        half = max(1, round(radius * SUPERSAMPLING))
        mask = _falloff().resize((2 * half, 2 * half)).point(lambda value: value * strength)
        corner = (round(x * SUPERSAMPLING) - half, round(y * SUPERSAMPLING) - half)
        self._image.paste(_rgb(colour), (*corner, corner[0] + 2 * half, corner[1] + 2 * half), mask)

    def region(self, box: tuple[float, float, float, float]) -> Image.Image:
        """A copy of what is drawn inside (left, top, right, bottom), supersampled."""
        (x0, y0), (x1, y1) = _scaled(((box[0], box[1]), (box[2], box[3])))
        return self._image.crop((round(x0), round(y0), round(x1), round(y1)))

    def paste(self, image: Image.Image, x: float, y: float, mask: Image.Image | None = None) -> None:
        """Put a supersampled image with its top left corner at (x, y)."""
        self._image.paste(image, (round(x * SUPERSAMPLING), round(y * SUPERSAMPLING)), mask)

    def _gradient(self, stops: Sequence[RGB], top: float, bottom: float) -> Image.Image:
        y = (np.arange(self._size[1]) / SUPERSAMPLING - top) / max(bottom - top, 1e-3)
        at = np.linspace(0, 1, len(stops))
        column = np.stack([np.interp(y, at, [stop[c] for stop in stops]) for c in range(3)], -1)
        strip = np.ascontiguousarray(
            np.broadcast_to(column[:, None].round().astype(np.uint8), (*column.shape[:1], 8, 3))
        )
        return Image.fromarray(strip).resize(self._size, Image.Resampling.NEAREST)


@lru_cache(maxsize=1)
def _falloff() -> Image.Image:
    axis = np.linspace(-1, 1, 128)
    distance = np.sqrt(axis[:, None] ** 2 + axis[None] ** 2)
    return Image.fromarray((255 * np.clip(1 - distance, 0, 1) ** 2).astype(np.uint8))


def _scaled(points: Points) -> list[tuple[float, float]]:
    return [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]


def _rgb(colour: RGB) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, round(c))) for c in colour)
    return r, g, b

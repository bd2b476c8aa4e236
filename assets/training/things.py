"""How each coloured object is drawn.

Every function draws into a box of `size` pixels around x: sky things are centred on y, all others stand on y.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from assets.training.canvas import Canvas, Points
from assets.training.palette import (
    BLACK,
    CREAM,
    LAMP,
    OBJECT,
    OBJECT_LIGHT,
    RGB,
    SLATE,
    WHITE,
    WOOD,
    lit,
    mix,
    shaded,
)


@dataclass(frozen=True)
class Ink:
    """The colours one object is drawn with, under the light of its time of day."""

    main: RGB
    shade: RGB
    cream: RGB
    slate: RGB
    wood: RGB
    pane: RGB  # windows and openings: lit at night
    night: bool


def ink_for(colour: str, time: str) -> Ink:
    """Ink for an object colour by name at a time of day."""
    light, night = OBJECT_LIGHT[time], time == "night"
    main = lit(OBJECT[colour], light)
    pane = LAMP if night else (190, 222, 236)
    return Ink(main, shaded(main), lit(CREAM, light), lit(SLATE, light), lit(WOOD, light), pane, night)


def curve(x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 24) -> list[tuple[float, float]]:
    """Points along an ellipse's arc; angles in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def balloon(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A hot-air balloon."""
    top, r = y - 0.16 * size, 0.34 * size

    def envelope(width: float) -> Points:
        arc = curve(x, top, r * width, r, 150, 390)
        return [*arc, (x + 0.1 * size * width, y + 0.3 * size), (x - 0.1 * size * width, y + 0.3 * size)]

    for end in (-0.07, 0.07):
        canvas.line([(x + 1.3 * end * size, y + 0.28 * size), (x + end * size, y + 0.42 * size)], ink.wood, 1)
    canvas.polygon(envelope(1.0), ink.main)
    canvas.polygon(envelope(0.66), ink.shade)
    canvas.polygon(envelope(0.30), ink.main)
    canvas.polygon([*curve(x, top, r * 0.99, r * 0.3, 15, 165), *curve(x, top + 4, r * 0.97, r * 0.3, 165, 15)], ink.cream)
    if ink.night:
        canvas.glow(x, y + 0.2 * size, 0.3 * size, LAMP, 0.5)
    canvas.rectangle(x - 0.09 * size, y + 0.38 * size, x + 0.09 * size, y + 0.5 * size, ink.wood, 2)


def kite(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A diamond kite with a tail."""
    top, bottom = (x + 0.12 * size, y - 0.5 * size), (x - 0.12 * size, y + 0.22 * size)
    left, right = (x - 0.3 * size, y - 0.22 * size), (x + 0.34 * size, y - 0.08 * size)
    middle = (x + 0.03 * size, y - 0.15 * size)
    tail = [(bottom[0] - 0.05 * size * math.sin(2.2 * t) - 0.03 * size * t, bottom[1] + 0.07 * size * t) for t in range(5)]
    canvas.line([bottom, *tail[1:]], ink.cream, 1.5)
    for bow in tail[1::2]:
        canvas.ellipse(bow[0], bow[1], 0.045 * size, 0.03 * size, ink.main)
    for first, second, colour in ((top, left, ink.main), (left, bottom, ink.shade), (bottom, right, ink.main), (right, top, ink.shade)):
        canvas.polygon([first, second, middle], colour)
    canvas.line([top, bottom], ink.cream, 1)
    canvas.line([left, right], ink.cream, 1)


def boat(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A sailing boat."""
    deck = y - 0.22 * size
    canvas.rectangle(x - 0.015 * size, y - 0.98 * size, x + 0.015 * size, deck, ink.wood)
    sail = [(x + 0.04 * size, deck - 0.05 * size), (x + 0.04 * size, y - 0.96 * size)]
    canvas.polygon([*sail, *curve(x - 0.02 * size, deck - 0.05 * size, 0.42 * size, 0.66 * size, -70, 0, 10)], ink.cream)
    canvas.polygon([(x - 0.05 * size, deck - 0.05 * size), (x - 0.05 * size, y - 0.86 * size), (x - 0.36 * size, deck - 0.05 * size)], ink.shade)
    hull = [(x - 0.48 * size, deck), (x + 0.5 * size, deck), *curve(x + 0.05 * size, deck, 0.4 * size, 0.26 * size, 20, 160, 10)]
    canvas.polygon(hull, ink.main)
    canvas.rectangle(x - 0.48 * size, deck - 0.01 * size, x + 0.5 * size, deck + 0.04 * size, ink.cream)
    if ink.night:
        canvas.glow(x, deck - 0.1 * size, 0.3 * size, LAMP, 0.6)


def whale(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A friendly whale, half out of the water."""
    for bend in (-1, 1):
        canvas.line(curve(x - (0.2 - 0.09 * bend) * size, y - 0.5 * size, 0.09 * size, 0.12 * size, -90 - 90 * bend, -90, 8), mix(ink.cream, WHITE, 0.5), 2.5)
    tail = [(x + 0.2 * size, y), (x + 0.24 * size, y - 0.26 * size), *curve(x + 0.24 * size, y - 0.3 * size, 0.16 * size, 0.16 * size, 90, 0, 8), (x + 0.49 * size, y - 0.3 * size), (x + 0.42 * size, y)]
    canvas.polygon(tail, ink.main)
    for side in (-0.09, 0.09):
        canvas.ellipse(x + (0.445 + side) * size, y - 0.33 * size, 0.1 * size, 0.055 * size, ink.shade)
    canvas.polygon(curve(x - 0.06 * size, y, 0.42 * size, 0.42 * size, 180, 360), ink.main)
    canvas.polygon([*curve(x - 0.06 * size, y, 0.42 * size, 0.14 * size, 180, 290, 12), (x + 0.05 * size, y)], ink.cream)
    canvas.ellipse(x - 0.3 * size, y - 0.2 * size, 0.04 * size, 0.045 * size, WHITE)
    canvas.ellipse(x - 0.31 * size, y - 0.2 * size, 0.022 * size, 0.03 * size, BLACK)


def house(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A cottage whose windows light up at night."""
    eaves, half = y - 0.46 * size, 0.38 * size
    canvas.rectangle(x + 0.18 * size, y - 0.92 * size, x + 0.28 * size, y - 0.6 * size, ink.wood)
    canvas.rectangle(x - half, eaves, x + half, y, ink.main)
    canvas.rectangle(x + 0.22 * size, eaves, x + half, y, ink.shade)
    canvas.polygon([(x - half, eaves), (x, y - 0.8 * size), (x + half, eaves)], ink.main)
    canvas.polygon([(x - 0.47 * size, eaves + 4), (x, y - 0.9 * size), (x + 0.47 * size, eaves + 4), (x + 0.36 * size, eaves + 4), (x, y - 0.74 * size), (x - 0.36 * size, eaves + 4)], ink.slate)
    canvas.rectangle(x - 0.09 * size, y - 0.3 * size, x + 0.09 * size, y, ink.wood, 2)
    for side in (-0.25, 0.25):
        if ink.night:
            canvas.glow(x + side * size, y - 0.3 * size, 0.22 * size, LAMP, 0.7)
        canvas.rectangle(x + (side - 0.085) * size, y - 0.38 * size, x + (side + 0.085) * size, y - 0.2 * size, ink.cream, 1)
        canvas.rectangle(x + (side - 0.065) * size, y - 0.36 * size, x + (side + 0.065) * size, y - 0.22 * size, ink.pane)
    canvas.ellipse(x, y - 0.58 * size, 0.065 * size, 0.065 * size, ink.pane)


def tent(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A camping tent."""
    peak = (x - 0.06 * size, y - 0.68 * size)
    canvas.polygon([(x - 0.5 * size, y), peak, (x + 0.12 * size, y)], ink.main)
    canvas.polygon([(x + 0.12 * size, y), peak, (x + 0.14 * size, y - 0.66 * size), (x + 0.5 * size, y)], ink.shade)
    if ink.night:
        canvas.glow(x - 0.16 * size, y - 0.1 * size, 0.4 * size, LAMP, 0.6)
    canvas.polygon([(x - 0.3 * size, y), (peak[0] - 0.03 * size, y - 0.46 * size), (x - 0.04 * size, y)], ink.pane if ink.night else ink.slate)
    canvas.line([(peak[0] - 0.03 * size, y - 0.74 * size), peak], ink.wood, 2)


def lighthouse(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A striped lighthouse; its lamp shines at night."""
    lamp = y - 0.82 * size
    if ink.night:
        canvas.glow(x, lamp, 0.5 * size, LAMP, 0.8)
    for stripe in range(5):
        low, high = stripe * 0.148, (stripe + 1) * 0.148
        wide, narrow = 0.19 - 0.1 * low, 0.19 - 0.1 * high
        band = [(x - wide * size, y - low * size), (x + wide * size, y - low * size), (x + narrow * size, y - high * size), (x - narrow * size, y - high * size)]
        canvas.polygon(band, ink.cream if stripe % 2 else ink.main)
    canvas.rectangle(x - 0.16 * size, y - 0.76 * size, x + 0.16 * size, y - 0.73 * size, ink.slate)
    canvas.rectangle(x - 0.09 * size, y - 0.87 * size, x + 0.09 * size, y - 0.76 * size, LAMP)
    canvas.polygon([(x - 0.13 * size, y - 0.87 * size), (x, y - size), (x + 0.13 * size, y - 0.87 * size)], ink.main)


def cat(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A sitting cat that looks at you."""
    canvas.line(curve(x + 0.24 * size, y - 0.2 * size, 0.18 * size, 0.16 * size, 90, -60, 16), ink.shade, 0.085 * size)
    canvas.polygon([*curve(x, y - 0.16 * size, 0.3 * size, 0.36 * size, 180, 360), (x + 0.3 * size, y), (x - 0.3 * size, y)], ink.main)
    canvas.ellipse(x, y - 0.2 * size, 0.13 * size, 0.17 * size, ink.cream)
    canvas.rectangle(x - 0.3 * size, y - 0.07 * size, x + 0.3 * size, y, ink.shade, 0.035 * size)
    head = y - 0.62 * size
    for side in (-1, 1):
        canvas.polygon([(x + side * 0.29 * size, head), (x + side * 0.26 * size, head - 0.38 * size), (x + side * 0.03 * size, head - 0.18 * size)], ink.shade)
    canvas.ellipse(x, head, 0.31 * size, 0.25 * size, ink.main)
    for side in (-1, 1):
        canvas.ellipse(x + side * 0.13 * size, head - 0.02 * size, 0.062 * size, 0.075 * size, WHITE)
        canvas.ellipse(x + side * 0.13 * size, head - 0.01 * size, 0.04 * size, 0.06 * size, BLACK)
    canvas.ellipse(x, head + 0.11 * size, 0.08 * size, 0.06 * size, ink.cream)
    canvas.ellipse(x, head + 0.08 * size, 0.03 * size, 0.02 * size, BLACK)


def car(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A little camper van."""
    top = y - 0.6 * size
    canvas.rectangle(x - 0.46 * size, top, x + 0.46 * size, y - 0.3 * size, ink.cream, 0.12 * size)
    canvas.rectangle(x - 0.48 * size, y - 0.38 * size, x + 0.48 * size, y - 0.09 * size, ink.main, 0.06 * size)
    canvas.rectangle(x - 0.48 * size, y - 0.17 * size, x + 0.48 * size, y - 0.09 * size, ink.shade, 0.03 * size)
    for left, right in ((-0.38, -0.16), (-0.11, 0.11), (0.16, 0.4)):
        canvas.rectangle(x + left * size, top + 0.07 * size, x + right * size, y - 0.36 * size, ink.pane, 0.03 * size)
    for wheel in (-0.27, 0.27):
        canvas.ellipse(x + wheel * size, y - 0.1 * size, 0.11 * size, 0.11 * size, BLACK)
        canvas.ellipse(x + wheel * size, y - 0.1 * size, 0.05 * size, 0.05 * size, ink.cream)
    if ink.night:
        canvas.glow(x + 0.5 * size, y - 0.24 * size, 0.25 * size, LAMP, 0.8)
    canvas.ellipse(x + 0.45 * size, y - 0.25 * size, 0.04 * size, 0.05 * size, LAMP)


def mushroom(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A smiling toadstool."""
    canvas.rectangle(x - 0.17 * size, y - 0.5 * size, x + 0.17 * size, y, ink.cream, 0.1 * size)
    for side in (-0.07, 0.07):
        canvas.ellipse(x + side * size, y - 0.26 * size, 0.026 * size, 0.036 * size, BLACK)
    canvas.line(curve(x, y - 0.2 * size, 0.05 * size, 0.05 * size, 20, 160, 6), BLACK, 1.2)
    canvas.polygon(curve(x, y - 0.4 * size, 0.5 * size, 0.5 * size, 180, 360), ink.main)
    canvas.ellipse(x, y - 0.4 * size, 0.5 * size, 0.08 * size, ink.shade)
    for dx, dy, r in ((-0.26, -0.54, 0.07), (0.0, -0.72, 0.09), (0.26, -0.56, 0.08), (0.03, -0.5, 0.05)):
        canvas.ellipse(x + dx * size, y + dy * size, r * size, 0.8 * r * size, ink.cream)


def flowers(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """Three tulips."""
    stem = lit((70, 112, 70), OBJECT_LIGHT["night"]) if ink.night else (70, 112, 70)
    for dx, height in ((-0.32, 0.62), (0.33, 0.66), (0.0, 0.84)):
        cx, cy, r = x + dx * size, y - height * size, 0.16 * size
        canvas.line([(cx, cy), (x + 0.6 * dx * size, y)], stem, 0.045 * size)
        canvas.polygon([(x + 0.6 * dx * size, y), (cx + 0.17 * size, y - 0.36 * size), (x + 0.6 * dx * size + 0.05 * size, y)], stem)
        canvas.polygon([*curve(cx, cy, r, 1.25 * r, 0, 180), (cx - r, cy - 1.1 * r), (cx - 0.45 * r, cy - 0.4 * r), (cx, cy - 1.3 * r), (cx + 0.45 * r, cy - 0.4 * r), (cx + r, cy - 1.1 * r)], ink.main)
        canvas.polygon([*curve(cx, cy, 0.45 * r, 1.2 * r, 0, 180), (cx, cy - 1.3 * r)], ink.shade)


Draw = Callable[[Canvas, float, float, float, Ink], None]

DRAW: dict[str, tuple[Draw, float]] = {
    "balloon": (balloon, 78),
    "kite": (kite, 80),
    "boat": (boat, 68),
    "whale": (whale, 78),
    "house": (house, 74),
    "tent": (tent, 74),
    "lighthouse": (lighthouse, 108),
    "cat": (cat, 64),
    "car": (car, 76),
    "mushroom": (mushroom, 58),
    "flowers": (flowers, 58),
}
"""How to draw each kind and how large, in pixels of a 256-pixel picture."""

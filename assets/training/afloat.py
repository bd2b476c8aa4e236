"""How each thing in the air or on the water is drawn.

Every function draws into a box of `size` pixels around x: sky things are centred on y, all others stand on y.
"""

from __future__ import annotations

import math

from assets.training.canvas import Canvas, Points
from assets.training.ink import Ink, curve
from assets.training.palette import BLACK, LAMP, WHITE, mix


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
    canvas.polygon(
        [*curve(x, top, r * 0.99, r * 0.3, 15, 165), *curve(x, top + 4, r * 0.97, r * 0.3, 165, 15)],
        ink.cream,
    )
    if ink.night:
        canvas.glow(x, y + 0.2 * size, 0.3 * size, LAMP, 0.5)
    canvas.rectangle(x - 0.09 * size, y + 0.38 * size, x + 0.09 * size, y + 0.5 * size, ink.wood, 2)


def kite(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A diamond kite with a tail."""
    top, bottom = (x + 0.12 * size, y - 0.5 * size), (x - 0.12 * size, y + 0.22 * size)
    left, right = (x - 0.3 * size, y - 0.22 * size), (x + 0.34 * size, y - 0.08 * size)
    middle = (x + 0.03 * size, y - 0.15 * size)
    tail = [
        (bottom[0] - 0.05 * size * math.sin(2.2 * t) - 0.03 * size * t, bottom[1] + 0.07 * size * t)
        for t in range(5)
    ]
    canvas.line([bottom, *tail[1:]], ink.cream, 1.5)
    for bow in tail[1::2]:
        canvas.ellipse(bow[0], bow[1], 0.045 * size, 0.03 * size, ink.main)
    for first, second, colour in (
        (top, left, ink.main),
        (left, bottom, ink.shade),
        (bottom, right, ink.main),
        (right, top, ink.shade),
    ):
        canvas.polygon([first, second, middle], colour)
    canvas.line([top, bottom], ink.cream, 1)
    canvas.line([left, right], ink.cream, 1)


def boat(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A sailing boat."""
    deck = y - 0.22 * size
    canvas.rectangle(x - 0.015 * size, y - 0.98 * size, x + 0.015 * size, deck, ink.wood)
    sail = [(x + 0.04 * size, deck - 0.05 * size), (x + 0.04 * size, y - 0.96 * size)]
    canvas.polygon(
        [*sail, *curve(x - 0.02 * size, deck - 0.05 * size, 0.42 * size, 0.66 * size, -70, 0, 10)], ink.cream
    )
    canvas.polygon(
        [
            (x - 0.05 * size, deck - 0.05 * size),
            (x - 0.05 * size, y - 0.86 * size),
            (x - 0.36 * size, deck - 0.05 * size),
        ],
        ink.shade,
    )
    hull = [
        (x - 0.48 * size, deck),
        (x + 0.5 * size, deck),
        *curve(x + 0.05 * size, deck, 0.4 * size, 0.26 * size, 20, 160, 10),
    ]
    canvas.polygon(hull, ink.main)
    canvas.rectangle(x - 0.48 * size, deck - 0.01 * size, x + 0.5 * size, deck + 0.04 * size, ink.cream)
    if ink.night:
        canvas.glow(x, deck - 0.1 * size, 0.3 * size, LAMP, 0.6)


def whale(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A friendly whale, half out of the water."""
    for bend in (-1, 1):
        canvas.line(
            curve(
                x - (0.2 - 0.09 * bend) * size,
                y - 0.5 * size,
                0.09 * size,
                0.12 * size,
                -90 - 90 * bend,
                -90,
                8,
            ),
            mix(ink.cream, WHITE, 0.5),
            2.5,
        )
    tail = [
        (x + 0.2 * size, y),
        (x + 0.24 * size, y - 0.26 * size),
        *curve(x + 0.24 * size, y - 0.3 * size, 0.16 * size, 0.16 * size, 90, 0, 8),
        (x + 0.49 * size, y - 0.3 * size),
        (x + 0.42 * size, y),
    ]
    canvas.polygon(tail, ink.main)
    for side in (-0.09, 0.09):
        canvas.ellipse(x + (0.445 + side) * size, y - 0.33 * size, 0.1 * size, 0.055 * size, ink.shade)
    canvas.polygon(curve(x - 0.06 * size, y, 0.42 * size, 0.42 * size, 180, 360), ink.main)
    canvas.polygon(
        [*curve(x - 0.06 * size, y, 0.42 * size, 0.14 * size, 180, 290, 12), (x + 0.05 * size, y)], ink.cream
    )
    canvas.ellipse(x - 0.3 * size, y - 0.2 * size, 0.04 * size, 0.045 * size, WHITE)
    canvas.ellipse(x - 0.31 * size, y - 0.2 * size, 0.022 * size, 0.03 * size, BLACK)

"""How each thing on the ground is drawn.

Every function draws into a box of `size` pixels around x: sky things are centred on y, all others stand on y.
"""

from __future__ import annotations

from assets.training.canvas import Canvas
from assets.training.ink import Ink, curve
from assets.training.palette import BLACK, LAMP, OBJECT_LIGHT, WHITE, lit


def house(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A cottage whose windows light up at night."""
    eaves, half = y - 0.46 * size, 0.38 * size
    canvas.rectangle(x + 0.18 * size, y - 0.92 * size, x + 0.28 * size, y - 0.6 * size, ink.wood)
    canvas.rectangle(x - half, eaves, x + half, y, ink.main)
    canvas.rectangle(x + 0.22 * size, eaves, x + half, y, ink.shade)
    canvas.polygon([(x - half, eaves), (x, y - 0.8 * size), (x + half, eaves)], ink.main)
    canvas.polygon(
        [
            (x - 0.47 * size, eaves + 4),
            (x, y - 0.9 * size),
            (x + 0.47 * size, eaves + 4),
            (x + 0.36 * size, eaves + 4),
            (x, y - 0.74 * size),
            (x - 0.36 * size, eaves + 4),
        ],
        ink.slate,
    )
    canvas.rectangle(x - 0.09 * size, y - 0.3 * size, x + 0.09 * size, y, ink.wood, 2)
    for side in (-0.25, 0.25):
        if ink.night:
            canvas.glow(x + side * size, y - 0.3 * size, 0.22 * size, LAMP, 0.7)
        canvas.rectangle(
            x + (side - 0.085) * size,
            y - 0.38 * size,
            x + (side + 0.085) * size,
            y - 0.2 * size,
            ink.cream,
            1,
        )
        canvas.rectangle(
            x + (side - 0.065) * size, y - 0.36 * size, x + (side + 0.065) * size, y - 0.22 * size, ink.pane
        )
    canvas.ellipse(x, y - 0.58 * size, 0.065 * size, 0.065 * size, ink.pane)


def tent(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A camping tent."""
    peak = (x - 0.06 * size, y - 0.68 * size)
    canvas.polygon([(x - 0.5 * size, y), peak, (x + 0.12 * size, y)], ink.main)
    canvas.polygon(
        [(x + 0.12 * size, y), peak, (x + 0.14 * size, y - 0.66 * size), (x + 0.5 * size, y)], ink.shade
    )
    if ink.night:
        canvas.glow(x - 0.16 * size, y - 0.1 * size, 0.4 * size, LAMP, 0.6)
    canvas.polygon(
        [(x - 0.3 * size, y), (peak[0] - 0.03 * size, y - 0.46 * size), (x - 0.04 * size, y)],
        ink.pane if ink.night else ink.slate,
    )
    canvas.line([(peak[0] - 0.03 * size, y - 0.74 * size), peak], ink.wood, 2)


def lighthouse(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A striped lighthouse; its lamp shines at night."""
    lamp = y - 0.82 * size
    if ink.night:
        canvas.glow(x, lamp, 0.5 * size, LAMP, 0.8)
    for stripe in range(5):
        low, high = stripe * 0.148, (stripe + 1) * 0.148
        wide, narrow = 0.19 - 0.1 * low, 0.19 - 0.1 * high
        band = [
            (x - wide * size, y - low * size),
            (x + wide * size, y - low * size),
            (x + narrow * size, y - high * size),
            (x - narrow * size, y - high * size),
        ]
        canvas.polygon(band, ink.cream if stripe % 2 else ink.main)
    canvas.rectangle(x - 0.16 * size, y - 0.76 * size, x + 0.16 * size, y - 0.73 * size, ink.slate)
    canvas.rectangle(x - 0.09 * size, y - 0.87 * size, x + 0.09 * size, y - 0.76 * size, LAMP)
    canvas.polygon(
        [(x - 0.13 * size, y - 0.87 * size), (x, y - size), (x + 0.13 * size, y - 0.87 * size)], ink.main
    )


def cat(canvas: Canvas, x: float, y: float, size: float, ink: Ink) -> None:
    """A sitting cat that looks at you."""
    canvas.line(
        curve(x + 0.24 * size, y - 0.2 * size, 0.18 * size, 0.16 * size, 90, -60, 16), ink.shade, 0.085 * size
    )
    canvas.polygon(
        [
            *curve(x, y - 0.16 * size, 0.3 * size, 0.36 * size, 180, 360),
            (x + 0.3 * size, y),
            (x - 0.3 * size, y),
        ],
        ink.main,
    )
    canvas.ellipse(x, y - 0.2 * size, 0.13 * size, 0.17 * size, ink.cream)
    canvas.rectangle(x - 0.3 * size, y - 0.07 * size, x + 0.3 * size, y, ink.shade, 0.035 * size)
    head = y - 0.62 * size
    for side in (-1, 1):
        canvas.polygon(
            [
                (x + side * 0.29 * size, head),
                (x + side * 0.26 * size, head - 0.38 * size),
                (x + side * 0.03 * size, head - 0.18 * size),
            ],
            ink.shade,
        )
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
    canvas.rectangle(
        x - 0.48 * size, y - 0.38 * size, x + 0.48 * size, y - 0.09 * size, ink.main, 0.06 * size
    )
    canvas.rectangle(
        x - 0.48 * size, y - 0.17 * size, x + 0.48 * size, y - 0.09 * size, ink.shade, 0.03 * size
    )
    for left, right in ((-0.38, -0.16), (-0.11, 0.11), (0.16, 0.4)):
        canvas.rectangle(
            x + left * size, top + 0.07 * size, x + right * size, y - 0.36 * size, ink.pane, 0.03 * size
        )
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
        canvas.polygon(
            [
                (x + 0.6 * dx * size, y),
                (cx + 0.17 * size, y - 0.36 * size),
                (x + 0.6 * dx * size + 0.05 * size, y),
            ],
            stem,
        )
        canvas.polygon(
            [
                *curve(cx, cy, r, 1.25 * r, 0, 180),
                (cx - r, cy - 1.1 * r),
                (cx - 0.45 * r, cy - 0.4 * r),
                (cx, cy - 1.3 * r),
                (cx + 0.45 * r, cy - 0.4 * r),
                (cx + r, cy - 1.1 * r),
            ],
            ink.main,
        )
        canvas.polygon([*curve(cx, cy, 0.45 * r, 1.2 * r, 0, 180), (cx, cy - 1.3 * r)], ink.shade)

"""Every kind of object: how it is drawn and how large."""

from __future__ import annotations

from collections.abc import Callable

from assets.training.afloat import balloon, boat, kite, whale
from assets.training.ashore import car, cat, flowers, house, lighthouse, mushroom, tent
from assets.training.canvas import Canvas
from assets.training.ink import Ink

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

"""The colours an object is drawn with, and the arc that most outlines are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from assets.training.palette import CREAM, LAMP, OBJECT, OBJECT_LIGHT, RGB, SLATE, WOOD, lit, shaded


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


def curve(
    x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 24
) -> list[tuple[float, float]]:
    """Points along an ellipse's arc; angles in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]

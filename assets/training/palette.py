"""Every colour of the renderer, as RGB from 0 to 255.

Objects wear vivid colours, scenery quieter ones, so that a checker can find an object by its colour alone.
"""

from __future__ import annotations

RGB = tuple[float, float, float]

OBJECT: dict[str, RGB] = {
    "red": (222, 38, 42),
    "orange": (255, 128, 0),
    "yellow": (255, 212, 0),
    "green": (0, 158, 72),
    "blue": (24, 92, 224),
    "purple": (132, 44, 184),
    "pink": (255, 82, 170),
}

SKY: dict[str, tuple[RGB, RGB, RGB]] = {
    "dawn": ((150, 164, 222), (224, 190, 222), (255, 214, 196)),
    "day": ((84, 166, 234), (150, 208, 246), (214, 239, 250)),
    "sunset": ((84, 62, 128), (226, 108, 104), (255, 196, 116)),
    "night": ((14, 20, 56), (30, 42, 92), (66, 78, 134)),
}
"""Top, middle and horizon of the sky by time of day."""

LIGHT: dict[str, RGB] = {
    "dawn": (1.0, 0.94, 0.97),
    "day": (1.0, 1.0, 1.0),
    "sunset": (0.96, 0.82, 0.80),
    "night": (0.44, 0.48, 0.70),
}
"""What the time of day multiplies the scenery by."""

OBJECT_LIGHT: dict[str, RGB] = {
    "dawn": (1.0, 1.0, 1.0),
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 1.0, 1.0),
    "night": (0.86, 0.86, 0.93),
}
"""The same for objects, gentler, so that their colours stay their own."""

LAND: dict[str, tuple[RGB, RGB, RGB, RGB]] = {
    "mountains": ((164, 180, 206), (122, 144, 168), (104, 142, 120), (126, 170, 104)),
    "sea": ((160, 190, 196), (140, 176, 170), (206, 190, 150), (240, 220, 176)),
    "desert": ((214, 178, 160), (222, 186, 148), (230, 198, 156), (238, 210, 168)),
    "forest": ((136, 176, 158), (92, 144, 112), (70, 122, 88), (108, 150, 92)),
    "meadow": ((164, 200, 160), (146, 194, 126), (126, 184, 104), (142, 198, 106)),
    "city": ((176, 186, 202), (142, 154, 178), (112, 124, 150), (168, 172, 176)),
    "lake": ((160, 178, 204), (116, 148, 150), (104, 152, 116), (134, 180, 110)),
    "winter": ((196, 208, 226), (212, 222, 236), (226, 234, 244), (242, 246, 250)),
}
"""Far, middle, near and ground of each place, in natural colours by day."""

MOOD: dict[str, tuple[RGB, RGB, RGB, RGB]] = {
    "teal": ((158, 204, 204), (110, 176, 178), (72, 146, 152), (94, 172, 172)),
    "violet": ((196, 184, 224), (162, 144, 206), (124, 104, 176), (158, 138, 206)),
    "golden": ((240, 212, 142), (228, 186, 98), (200, 150, 66), (228, 178, 84)),
    "rose": ((244, 200, 204), (234, 164, 174), (206, 122, 138), (236, 158, 170)),
}
"""The same for the palettes that a prompt can ask for."""

WATER: dict[str, RGB] = {
    "natural": (78, 150, 200),
    "teal": (70, 170, 170),
    "violet": (140, 124, 200),
    "golden": (224, 186, 110),
    "rose": (232, 160, 176),
}

CREAM: RGB = (252, 244, 224)
SLATE: RGB = (70, 74, 96)
WOOD: RGB = (120, 82, 58)
LAMP: RGB = (255, 226, 140)
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (34, 32, 44)


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with `share` (0 to 1) of it replaced by `b`."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def lit(colour: RGB, light: RGB) -> RGB:
    """`colour` under `light`, channel by channel."""
    return (colour[0] * light[0], colour[1] * light[1], colour[2] * light[2])


def shaded(colour: RGB) -> RGB:
    """The side of an object that faces away from the light."""
    return lit(colour, (0.82, 0.82, 0.84))

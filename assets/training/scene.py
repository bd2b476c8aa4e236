"""The grammar of scenes: what a picture can contain, random scenes, and what training never sees."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace

PLACES = ("mountains", "sea", "desert", "forest", "meadow", "city", "lake", "winter")
TIMES = ("dawn", "day", "sunset", "night")
WEATHERS = ("clear", "cloudy", "rain", "snow")
PALETTES = ("natural", "teal", "violet", "golden", "rose")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
SIDES = ("left", "centre", "right")

SKY_KINDS = ("balloon", "kite")
WATER_KINDS = ("boat", "whale")
GROUND_KINDS = ("house", "tent", "lighthouse", "cat", "car", "mushroom", "flowers")
KINDS = SKY_KINDS + WATER_KINDS + GROUND_KINDS
WATER_PLACES = ("sea", "lake")

TREES = {
    "mountains": ("pine", "round"),
    "sea": ("palm",),
    "desert": ("cactus", "palm"),
    "forest": ("pine", "round"),
    "meadow": ("round", "cherry", "pine"),
    "city": ("round", "cherry"),
    "lake": ("pine", "round", "cherry"),
    "winter": ("pine",),
}
"""The kinds of tree that grow in each place."""

HELD_OUT_SHARE = 10
"""One in this many combinations of place, time, kind and colour is kept out of training."""


@dataclass(frozen=True)
class Thing:
    """One coloured object, or two or three alike. `side` is None where there are several."""

    kind: str
    colour: str
    count: int = 1
    side: str | None = None


@dataclass(frozen=True)
class Scene:
    """Everything a caption may say about a picture. `seed` fixes what no caption says (outlines, jitter)."""

    place: str
    time: str
    weather: str
    palette: str
    things: tuple[Thing, ...] = ()
    trees: str | None = None
    light_side: str | None = None  # where the sun or moon stands; None hides it
    crescent: bool = False
    stars: bool = False
    birds: bool = False
    rainbow: bool = False
    seed: int = 0


def layer_of(kind: str) -> str:
    """The band of the picture in which a kind lives: sky, water or ground."""
    return "sky" if kind in SKY_KINDS else "water" if kind in WATER_KINDS else "ground"


def turns(scene: Scene) -> tuple[Scene, ...]:
    """The scene with its objects on each of the sides in turn: left to centre to right to left.

    All else is the same, outlines included. Where nothing has a side, the outlines differ instead.
    """
    if not any(thing.side for thing in scene.things):
        return tuple(replace(scene, seed=scene.seed + number) for number in range(len(SIDES)))
    return tuple(
        replace(scene, things=tuple(_moved(thing, by) for thing in scene.things)) for by in range(len(SIDES))
    )


def _moved(thing: Thing, by: int) -> Thing:
    if thing.side is None:
        return thing
    return replace(thing, side=SIDES[(SIDES.index(thing.side) + by) % len(SIDES)])


def is_held_out(scene: Scene) -> bool:
    """Whether training must never see this scene: one of its combinations is held out."""
    keys = [f"{scene.place}|{scene.time}|{thing.kind}|{thing.colour}" for thing in scene.things]
    return any(zlib.crc32(key.encode()) % HELD_OUT_SHARE == 0 for key in keys)


def random_scene(rng: random.Random) -> Scene:
    """Draw any scene of the grammar, held out or not."""
    place, time = rng.choice(PLACES), rng.choice(TIMES)
    weather = rng.choices(WEATHERS, (60, 20, 10, 10))[0]
    if place == "desert" and weather == "snow":
        weather = "clear"
    grows_trees = place == "forest" or rng.random() < 0.45
    dry = weather in ("clear", "cloudy")
    return Scene(
        place=place,
        time=time,
        weather=weather,
        palette=rng.choice(PALETTES[1:]) if rng.random() < 0.5 else "natural",
        things=_random_things(rng, place),
        trees=rng.choice(TREES[place]) if grows_trees else None,
        light_side=rng.choice(SIDES) if dry and rng.random() < 0.75 else None,
        crescent=time == "night" and rng.random() < 0.4,
        stars=time == "night" and dry and rng.random() < 0.7,
        birds=time != "night" and rng.random() < 0.2,
        rainbow=time in ("dawn", "day") and rng.random() < 0.12,
        seed=rng.getrandbits(32),
    )


def training_scene(rng: random.Random) -> Scene:
    """Draw a scene that training may see."""
    while is_held_out(scene := random_scene(rng)):
        pass
    return scene


def held_out_scene(rng: random.Random) -> Scene:
    """Draw a scene with at least one object and a combination that training never saw."""
    while not is_held_out(scene := random_scene(rng)):
        pass
    return scene


def _random_things(rng: random.Random, place: str) -> tuple[Thing, ...]:
    """Up to three objects of different kinds, no two on the same side of the sky or beneath it."""
    kinds = list(SKY_KINDS + GROUND_KINDS)
    if place in WATER_PLACES:
        kinds += WATER_KINDS * 3  # only two places have water, so boats and whales are drawn more often there
    above, beneath = list(SIDES), list(SIDES)  # sides still free in the sky, and on water and ground together
    things: list[Thing] = []
    for _ in range(rng.choices((0, 1, 2, 3), (12, 48, 30, 10))[0]):
        kind, colour = rng.choice(kinds), rng.choice(COLOURS)
        sides = above if kind in SKY_KINDS else beneath
        if not sides or any(thing.kind == kind for thing in things):
            continue
        several = len(sides) == 3 and kind not in ("lighthouse", "flowers") and rng.random() < 0.2
        if several:
            things.append(Thing(kind, colour, count=rng.choice((2, 3))))
            sides.clear()
        else:
            side = rng.choice(sides)
            sides.remove(side)
            things.append(Thing(kind, colour, side=side))
    return tuple(things)

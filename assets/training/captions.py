"""Captions as people type them: any order, synonyms, missing attributes, filler words, or only two words."""

from __future__ import annotations

import random
from collections.abc import Iterator

from assets.training.scene import Scene, Thing

COUNT_WORDS = {
    1: ("a", "a", "a", "one", "the", ""),
    2: ("two", "two", "2", "a pair of"),
    3: ("three", "three", "3"),
}

COLOUR_WORDS = {
    "red": ("red", "red", "red", "scarlet", "crimson"),
    "orange": ("orange", "orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "yellow", "lemon yellow", "bright yellow"),
    "green": ("green", "green", "green", "emerald"),
    "blue": ("blue", "blue", "blue", "azure", "cobalt blue"),
    "purple": ("purple", "purple", "purple", "violet", "lilac"),
    "pink": ("pink", "pink", "pink", "magenta", "hot pink"),
}

KIND_WORDS = {
    "balloon": ("balloon", "hot air balloon", "hot-air balloon"),
    "kite": ("kite", "flying kite"),
    "boat": ("boat", "sailboat", "sailing boat", "ship"),
    "whale": ("whale", "happy whale"),
    "house": ("house", "cottage", "home", "cabin"),
    "tent": ("tent", "camping tent"),
    "lighthouse": ("lighthouse", "light house"),
    "cat": ("cat", "kitty", "kitten"),
    "car": ("car", "van", "camper van", "bus"),
    "mushroom": ("mushroom", "toadstool"),
    "flowers": ("flowers", "tulips", "flower", "tulip"),
}

SIDE_WORDS = {
    "left": ("on the left", "on the left", "to the left", "left", "on the left side", "at the left"),
    "centre": (
        "in the middle",
        "in the centre",
        "in the center",
        "centre",
        "center",
        "in the middle of the picture",
    ),
    "right": ("on the right", "on the right", "to the right", "right", "on the right side", "at the right"),
}

PLACE_WORDS = {
    "mountains": (
        "mountains",
        "the mountains",
        "snowy peaks",
        "high mountains",
        "a mountain landscape",
        "the alps",
    ),
    "sea": ("the sea", "sea", "the ocean", "ocean", "a beach", "the seaside", "the coast"),
    "desert": ("the desert", "desert", "a desert", "sand dunes", "dunes"),
    "forest": ("a forest", "the forest", "forest", "the woods", "woodland"),
    "meadow": ("a meadow", "meadow", "hills", "rolling hills", "green hills", "the countryside", "fields"),
    "city": ("a city", "the city", "city", "a city skyline", "town", "skyscrapers"),
    "lake": ("a lake", "the lake", "lake", "a mountain lake", "a lake shore"),
    "winter": ("snowy hills", "a winter landscape", "winter", "a snowy landscape", "the snow", "the arctic"),
}

TIME_WORDS = {
    "dawn": ("at dawn", "dawn", "at sunrise", "sunrise", "in the early morning", "early morning", "morning"),
    "day": ("by day", "at noon", "in daylight", "daytime", "midday", "on a bright day", "in the afternoon"),
    "sunset": ("at sunset", "sunset", "at dusk", "in the evening", "evening", "sundown", "golden hour"),
    "night": ("at night", "night", "by night", "at midnight", "in the dark", "night time", "nighttime"),
}

WEATHER_WORDS = {
    "clear": ("clear sky", "no clouds", "cloudless"),
    "cloudy": ("clouds", "cloudy", "cloudy sky", "white clouds", "overcast"),
    "rain": ("rain", "rainy", "in the rain", "raining", "a rainy day", "heavy rain"),
    "snow": ("snow falling", "snowing", "snowfall", "snowflakes", "falling snow", "it snows"),
}

PALETTE_WORDS = {
    "natural": ("natural colours", "natural colors"),
    "teal": ("in teal tones", "teal colours", "teal palette", "teal", "turquoise tones"),
    "violet": ("in violet tones", "violet palette", "lavender tones", "purple tones", "lavender colours"),
    "golden": ("in golden tones", "golden palette", "golden", "golden colours", "amber tones"),
    "rose": ("in rose tones", "rose palette", "pink tones", "rosy colours", "rose colours"),
}

TREE_WORDS = {
    "pine": ("pine trees", "pines", "fir trees"),
    "round": ("trees", "round trees", "leafy trees"),
    "palm": ("palm trees", "palms"),
    "cactus": ("cacti", "cactus", "cactuses"),
    "cherry": ("cherry trees", "cherry blossoms", "pink blossoming trees"),
}

LIGHT_SIDE_WORDS = {
    "left": ("on the left", ""),
    "centre": ("in the middle", ""),
    "right": ("on the right", ""),
}

FILLER = (
    "an illustration of",
    "a picture of",
    "a postcard of",
    "a poster of",
    "flat design",
    "flat illustration",
    "vector art",
    "digital art",
    "beautiful",
    "cute",
    "minimalist",
    "highly detailed",
    "masterpiece",
    "best quality",
    "peaceful",
    "dreamy",
    "colourful",
    "storybook",
)

PLACE_JOINTS = ("in", "in front of", "over", "near", "by", "and", "with", "on")


def caption(scene: Scene, rng: random.Random, keep: float = 0.72) -> str:
    """Describe `scene` freely; each attribute is mentioned with probability `keep`."""
    if rng.random() < 0.06:
        return _two_words(scene, rng)
    things = [describe_thing(thing, rng) for thing in scene.things if rng.random() < keep + 0.2]
    place = rng.choice(PLACE_WORDS[scene.place]) if rng.random() < keep else ""
    time = rng.choice(TIME_WORDS[scene.time]) if rng.random() < keep else ""
    details = list(_details(scene, rng, keep))
    style = rng.random()
    if style < 0.55:
        text = _sentence(things, place, time, details, rng)
    else:
        parts = [part for part in (*things, place, time, *details) if part]
        rng.shuffle(parts)
        text = rng.choice((", ", ", ", " ")).join(parts)
    return _dress(text, rng)


def full_caption(scene: Scene, rng: random.Random) -> str:
    """Describe `scene` leaving nothing out that a checker can read, in free words and order."""
    parts = [describe_thing(thing, rng, colour=1, side=1) for thing in scene.things]
    subject = rng.choice((" and ", ", ")).join(parts)
    text = f"{subject} {rng.choice(PLACE_JOINTS)} {rng.choice(PLACE_WORDS[scene.place])}"
    details = [rng.choice(TIME_WORDS[scene.time]), rng.choice(PALETTE_WORDS[scene.palette])]
    if scene.weather != "clear":
        details.append(rng.choice(WEATHER_WORDS[scene.weather]))
    rng.shuffle(details)
    return ", ".join([text, *details])


def describe_thing(thing: Thing, rng: random.Random, colour: float = 0.88, side: float = 0.8) -> str:
    """One object in words; its colour and side are mentioned with the probabilities given."""
    name = rng.choice(KIND_WORDS[thing.kind])
    if thing.count > 1:
        name = plural(name)
    count = (
        rng.choice(COUNT_WORDS[thing.count]) if thing.kind != "flowers" else rng.choice(("", "some", "a few"))
    )
    hue = rng.choice(COLOUR_WORDS[thing.colour]) if rng.random() < colour else ""
    where = rng.choice(SIDE_WORDS[thing.side]) if thing.side and rng.random() < side else ""
    if count == "a" and (hue or name)[0] in "aeiou":
        count = "an"
    words = " ".join(word for word in (count, hue, name) if word)
    if where and rng.random() < 0.12:
        return f"{where} {words}"
    return f"{words} {where}".strip()


def plural(name: str) -> str:
    """The plural of a kind's name."""
    if name.endswith("s"):
        return name if name == "flowers" or name == "tulips" else name + "es"
    return name[:-1] + "ies" if name == "kitty" else name + "s"


def _details(scene: Scene, rng: random.Random, keep: float) -> Iterator[str]:
    """What else the caption mentions."""
    if rng.random() < (keep if scene.palette != "natural" else 0.06):
        yield rng.choice(PALETTE_WORDS[scene.palette])
    if rng.random() < (keep if scene.weather != "clear" else 0.06):
        yield rng.choice(WEATHER_WORDS[scene.weather])
    if scene.trees and rng.random() < 0.6 * keep + 0.2:
        yield rng.choice(TREE_WORDS[scene.trees])
    if scene.stars and rng.random() < keep:
        yield rng.choice(("stars", "starry sky", "a starry night", "twinkling stars"))
    if scene.birds and rng.random() < keep:
        yield rng.choice(("birds", "flying birds", "a flock of birds"))
    if scene.rainbow and rng.random() < keep + 0.15:
        yield rng.choice(("a rainbow", "rainbow"))
    if scene.light_side and rng.random() < 0.5:
        side = rng.choice(LIGHT_SIDE_WORDS[scene.light_side])
        yield f"{_light_name(scene, rng)} {side}".strip()


def _light_name(scene: Scene, rng: random.Random) -> str:
    if scene.time != "night":
        return rng.choice(("the sun", "sun", "sunshine"))
    if scene.crescent:
        return rng.choice(("a crescent moon", "crescent moon", "the moon"))
    return rng.choice(("a full moon", "full moon", "the moon", "moonlight"))


def _sentence(things: list[str], place: str, time: str, details: list[str], rng: random.Random) -> str:
    """Things, then place, then time, then details; or the time or place first."""
    subject = rng.choice((" and ", ", ")).join(things)
    text = f"{subject} {rng.choice(PLACE_JOINTS)} {place}" if subject and place else subject or place
    if time:
        text = f"{time}, {text}" if rng.random() < 0.2 else f"{text} {time}"
    if details:
        rng.shuffle(details)
        text += rng.choice((", ", " with ", " and ")) + ", ".join(details)
    return text.strip(" ,")


def _two_words(scene: Scene, rng: random.Random) -> str:
    options = [f"{scene.place} {scene.time}", f"{scene.time} {scene.place}", scene.place]
    options += [f"{thing.colour} {thing.kind}" for thing in scene.things] * 2
    return rng.choice(options)


def _dress(text: str, rng: random.Random) -> str:
    """Sometimes add filler, a word that means nothing here, capitals or a full stop."""
    if rng.random() < 0.18:
        filler = rng.choice(FILLER)
        text = f"{filler} {text}" if rng.random() < 0.5 else f"{text}, {filler}"
    if rng.random() < 0.05:
        nonsense = "".join(rng.choice("abcdefghiklmnoprstuvwyz") for _ in range(rng.randint(2, 9)))
        text = f"{text}, {nonsense}" if rng.random() < 0.5 else f"{nonsense} {text}"
    if rng.random() < 0.1:
        text = text[:1].upper() + text[1:] + "."
    return text

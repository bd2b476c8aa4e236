"""The text that A1111 writes into its pictures, written and read: grammar, key order and traps included.

::

    text   = prompt [LF "Negative prompt: " negative] LF params
    params = pair *(", " pair)        pair = key ": " value
    value  = raw, or a JSON string when it holds a comma, a colon or a line break

The grammar cannot carry every prompt: a line that starts "Negative prompt:" flips the sections and
surrounding blanks are lost. Where plain reading would not give a prompt back, the writer adds it once
more as a quoted extra key, which other readers pass over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from studio.request import ImageRequest
from triton_models.diffusion import fields
from triton_models.diffusion.samplers import NAMES

_NEGATIVE = "Negative prompt:"
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
# A1111 reads a last line of fewer pairs as part of the prompt.
_FEWEST_PAIRS = 3
_EXACT_PROMPT, _EXACT_NEGATIVE = "Prompt exact", "Negative prompt exact"
# A1111 keeps the noise schedule apart from the sampler since 1.9, and calls some samplers otherwise.
_SCHEDULES = ("Karras",)
_FOREIGN_NAMES = {"PLMS": "PNDM"}
# What A1111's schedule "Automatic" is for the samplers of ours whose plain one it is not.
_AUTOMATIC = {"DPM++ 2M": "Karras", "DPM++ 2M SDE": "Exponential"}


@dataclass(frozen=True)
class Recipe:
    """The settings that a text holds: a request, and every pair as it was written."""

    request: ImageRequest  # fields that the text does not name have their defaults
    pairs: Mapping[str, str] = field(default_factory=dict)

    @property
    def unknown_sampler(self) -> str:
        """The sampler it names, when this studio has none of that name; otherwise empty."""
        named, schedule = _sampler_name(self.pairs), _schedule(self.pairs)
        if named and schedule and not named.endswith(f" {schedule}"):
            named = f"{named} {schedule}"
        return named if named not in NAMES else ""


def write(request: ImageRequest, *, seed: int, extras: Mapping[str, str]) -> str:
    """The text for one picture of ``request``. ``extras`` (keys of two letters or more) come last."""
    sampler, schedule = _split_schedule(request.sampler)
    pairs = {
        "Steps": str(request.steps),
        "Sampler": sampler,
        **({"Schedule type": schedule} if schedule else {}),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": str(seed),
        "Size": f"{request.width}x{request.height}",
        **({"Denoising strength": f"{request.strength:g}"} if request.image is not None else {}),
        **{key: value for key, value in extras.items() if value},
    }
    plain = read(_assemble(request, pairs)).request
    if plain.prompt != request.prompt:
        pairs[_EXACT_PROMPT] = request.prompt
    if plain.negative_prompt != request.negative_prompt:
        pairs[_EXACT_NEGATIVE] = request.negative_prompt
    return _assemble(request, pairs)


def read(text: str) -> Recipe:
    """The settings in a text of ours or A1111's. Never fails: what cannot be read keeps its default."""
    *lines, last = text.strip().split("\n")
    found = _PAIR.findall(last)
    if len(found) < _FEWEST_PAIRS:
        lines, found = [*lines, last], []
    pairs = {key: _unquoted(value) for key, value in found}
    prompt, negative = _sections(lines)
    width, height = _size(pairs.get("Size", ""))
    sampler = _sampler_name(pairs)
    request = ImageRequest(
        prompt=pairs.get(_EXACT_PROMPT, prompt),
        negative_prompt=pairs.get(_EXACT_NEGATIVE, negative),
        steps=int(_number(pairs.get("Steps"), fields.STEPS)),
        guidance_scale=_number(pairs.get("CFG scale"), fields.GUIDANCE),
        seed=_whole(pairs.get("Seed"), -1),
        sampler=sampler if sampler in NAMES else str(fields.SAMPLER.default),
        width=width,
        height=height,
        strength=_number(pairs.get("Denoising strength"), fields.STRENGTH),
    )
    return Recipe(request, pairs)


def _assemble(request: ImageRequest, pairs: Mapping[str, str]) -> str:
    sections = [request.prompt]
    if request.negative_prompt:
        sections.append(f"{_NEGATIVE} {request.negative_prompt}")
    sections.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items()))
    return "\n".join(sections).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()


def _sections(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    section = prompt
    for line in lines:
        line = line.strip()
        if line.startswith(_NEGATIVE):
            section = negative
            line = line[len(_NEGATIVE) :].strip()
        section.append(line)
    return "\n".join(prompt), "\n".join(negative)


def _quoted(value: str) -> str:
    if value and value == value.strip() and not re.search(r'[,:"\n\r\0]', value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    if value.startswith('"') and value.endswith('"'):
        try:
            return str(json.loads(value))
        except json.JSONDecodeError:
            return value
    return value.strip()


def _split_schedule(sampler: str) -> tuple[str, str]:
    for schedule in _SCHEDULES:
        if sampler.endswith(f" {schedule}"):
            return sampler.removesuffix(f" {schedule}"), schedule
    return sampler, ""


def _sampler_name(pairs: Mapping[str, str]) -> str:
    name = pairs.get("Sampler", "")
    name = _FOREIGN_NAMES.get(name, name)
    with_schedule = f"{name} {_schedule(pairs)}"
    return with_schedule if with_schedule in NAMES else name


def _schedule(pairs: Mapping[str, str]) -> str:
    """The noise schedule, where it is not the sampler's plain one."""
    schedule = pairs.get("Schedule type", "")
    if schedule == "Automatic":
        return _AUTOMATIC.get(pairs.get("Sampler", ""), "")
    return "" if schedule == "Uniform" else schedule


def _number(text: str | None, field: fields.Field) -> float:
    """The number within the field's range, or its default."""
    low, high, default = field.low or 0.0, field.high or 0.0, float(field.default or 0.0)
    try:
        value = float(text) if text is not None else default
    except ValueError:
        return default
    return min(max(value, low), high) if value == value else default


def _whole(text: str | None, default: int) -> int:
    if text is None or not re.fullmatch(r"\d{1,19}", text):
        return default
    value = int(text)
    return value if value <= (fields.SEED.high or 0) else default


def _size(text: str) -> tuple[int | None, int | None]:
    """Width and height, brought to what can be drawn: multiples of 8 within the range."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if match is None:
        return None, None
    low, high = int(fields.WIDTH.low or 0), int(fields.WIDTH.high or 0)
    width, height = (
        min(max(round(int(side) / fields.SIZE_MULTIPLE) * fields.SIZE_MULTIPLE, low), high)
        for side in match.groups()
    )
    return width, height

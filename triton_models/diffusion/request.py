"""From the tensors of a request to a Request whose every field is sound."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import fields
from .fields import Field
from .manifest import ModelInfo
from .samplers import NAMES

Tensors = Mapping[str, npt.NDArray[Any]]
DRAWN_SEEDS = 2**32 - fields.MAX_IMAGES  # the generator looks at 32 bits of a seed


class InvalidRequest(ValueError):
    """A field that cannot be used: one sentence with its name, its value and its range."""


@dataclass(frozen=True)
class Request:
    """What to draw. Sizes in pixels."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float
    seeds: tuple[int, ...]  # one per picture
    sampler: str
    width: int
    height: int
    image: npt.NDArray[np.uint8] | None  # [height, width, 3] RGB: makes it image to image
    strength: float

    @property
    def guided(self) -> bool:
        """Whether the negative prompt has a say; without it a step costs half."""
        return self.guidance_scale > 1


def read(tensors: Tensors, info: ModelInfo, required: Iterable[str]) -> Request:
    """The Request in ``tensors``; fields left out take their defaults. Raises InvalidRequest."""
    for name in required:  # Triton 2.51 lets them be missing where other inputs are optional
        if name not in tensors:
            raise InvalidRequest(f"{name} is missing; it must be given.")
    image = _image(tensors)
    width, height = _size(tensors, info, image)
    return Request(
        prompt=text(tensors, fields.PROMPT),
        negative_prompt=text(tensors, fields.NEGATIVE_PROMPT),
        steps=integer(tensors, fields.STEPS),
        guidance_scale=number(tensors, fields.GUIDANCE),
        seeds=_seeds(integer(tensors, fields.SEED), integer(tensors, fields.NUM_IMAGES)),
        sampler=sampler(tensors),
        width=width,
        height=height,
        image=image,
        strength=number(tensors, fields.STRENGTH),
    )


def text(tensors: Tensors, field: Field) -> str:
    """The string of ``field``."""
    if field.name not in tensors:
        return str(field.default or "")
    raw: bytes = _single(tensors, field)
    if len(raw) > fields.MAX_PROMPT_BYTES:
        raise InvalidRequest(
            f"{field.name} has {len(raw)} bytes; it must have at most {fields.MAX_PROMPT_BYTES}."
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{field.name} is {raw[:40]!r}; it must be UTF-8 text.") from error


def integer(tensors: Tensors, field: Field, default: int | None = None) -> int:
    """The whole number of ``field``."""
    return int(_in_range(tensors, field, default))


def number(tensors: Tensors, field: Field) -> float:
    """The number of ``field``."""
    return float(_in_range(tensors, field, None))


def sampler(tensors: Tensors) -> str:
    """The sampler's name, known to exist."""
    name = text(tensors, fields.SAMPLER)
    if name not in NAMES:
        raise InvalidRequest(f"{fields.SAMPLER.name} is {name!r}; it must be one of {', '.join(NAMES)}.")
    return name


def _in_range(tensors: Tensors, field: Field, default: float | None) -> float:
    if field.name not in tensors:
        fallback = field.default if default is None else default
        assert isinstance(fallback, (int, float))
        return fallback
    value = _single(tensors, field)
    # float32's 0.9 is 0.899999976; its shortest decimal is the number that was meant.
    value = float(str(value)) if isinstance(value, np.floating) else int(value)
    assert field.low is not None
    assert field.high is not None
    if not field.low <= value <= field.high:  # false for NaN too
        raise InvalidRequest(
            f"{field.name} is {_show(value)}; it must be between {_show(field.low)} and {_show(field.high)}."
        )
    return float(value) if isinstance(value, float) else value


def _single(tensors: Tensors, field: Field) -> Any:
    array = tensors[field.name]
    if array.shape != (1,):
        raise InvalidRequest(f"{field.name} has the shape {list(array.shape)}; it must be [1].")
    return array[0]


def _show(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(seed: int, count: int) -> tuple[int, ...]:
    first = secrets.randbelow(DRAWN_SEEDS) if seed == -1 else seed
    return tuple((first + index) % 2**63 for index in range(count))


def _size(tensors: Tensors, info: ModelInfo, image: npt.NDArray[np.uint8] | None) -> tuple[int, int]:
    own = (info.default_width, info.default_height) if image is None else (image.shape[1], image.shape[0])
    sizes = []
    for field, default in zip((fields.WIDTH, fields.HEIGHT), own, strict=True):
        value = integer(tensors, field, default)
        if value % fields.SIZE_MULTIPLE:
            raise InvalidRequest(f"{field.name} is {value}; it must be a multiple of {fields.SIZE_MULTIPLE}.")
        if image is not None and value != default:
            raise InvalidRequest(
                f"{field.name} is {value}; it must be that of the image, {default}, or be left out."
            )
        sizes.append(value)
    return sizes[0], sizes[1]


def _image(tensors: Tensors) -> npt.NDArray[np.uint8] | None:
    image = tensors.get(fields.IMAGE.name)
    if image is None:
        return None
    if image.ndim != 3 or image.shape[2] != 3:
        raise InvalidRequest(f"image has the shape {list(image.shape)}; it must be [height, width, 3].")
    for name, size, field in (
        ("height", image.shape[0], fields.HEIGHT),
        ("width", image.shape[1], fields.WIDTH),
    ):
        assert field.low is not None
        assert field.high is not None
        if not field.low <= size <= field.high or size % fields.SIZE_MULTIPLE:
            raise InvalidRequest(
                f"image has a {name} of {size}; it must be between {field.low} and {field.high} "
                f"and a multiple of {fields.SIZE_MULTIPLE}."
            )
    return image

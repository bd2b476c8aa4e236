"""The controls of the page: one for each field of a request, with the field's own range and default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import RequestError
from studio.image import open_image
from studio.request import ImageRequest
from triton_models.diffusion import fields
from triton_models.diffusion.manifest import ModelInfo
from triton_models.diffusion.samplers import NAMES

CUSTOM = "Custom"


@dataclass(frozen=True)
class Controls:
    """The inputs of the page.

    ``start_file`` carries the file that ``start`` shows: as an input, gr.Image would open the file by
    itself and fail in its own words on one that is no picture.
    """

    prompt: gr.Textbox
    negative_prompt: gr.Textbox
    start: gr.Image
    start_file: gr.File
    strength: gr.Slider
    steps: gr.Slider
    guidance_scale: gr.Slider
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    sampler: gr.Dropdown
    width: gr.Number
    height: gr.Number
    num_images: gr.Slider

    def asked(self) -> dict[str, Any]:
        """What Generate sends, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "start"}

    def shown(self) -> dict[str, Any]:
        """What the artist sees, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "start_file"}

    def filled(self, request: ImageRequest, start: Path | None) -> dict[gr.components.Component, Any]:
        """What each input becomes so that Generate draws ``request`` again."""
        return {
            self.prompt: request.prompt,
            self.negative_prompt: request.negative_prompt,
            self.start: str(start) if start else None,
            self.strength: gr.update(value=request.strength, visible=start is not None),
            self.steps: request.steps,
            self.guidance_scale: request.guidance_scale,
            self.seed: str(request.seed) if request.seed >= 0 else "",
            self.keep_seed: request.seed >= 0,
            self.sampler: request.sampler,
            **({self.width: request.width, self.height: request.height} if request.width else {}),
            self.num_images: 1,
        }


def sizes(model: ModelInfo) -> dict[str, tuple[int, int]]:
    """The presets: the checkpoint's own size, and cuts of it in common shapes."""
    width, height = model.default_width, model.default_height
    return {
        "Square": (width, height),
        "Portrait": (_multiple(width * 3 / 4), height),
        "Landscape": (width, _multiple(height * 3 / 4)),
        "Wide": (width, _multiple(height * 9 / 16)),
        "Large": (_multiple(width * 3 / 2), _multiple(height * 3 / 2)),
    }


def request_from(values: dict[str, Any]) -> ImageRequest:
    """The request that the inputs describe. Raises RequestError for a seed or picture that is none."""
    seed = str(values["seed"] or "").strip()
    if values["keep_seed"] and seed and not seed.isdecimal():
        raise RequestError(
            f"The seed must be a whole number, not “{seed[:40]}”.", hint="Type digits only, or roll the dice."
        )
    start = values["start_file"]
    return ImageRequest(
        prompt=values["prompt"] or "",
        negative_prompt=values["negative_prompt"] or "",
        steps=int(values["steps"]),
        guidance_scale=float(values["guidance_scale"]),
        seed=int(seed) if values["keep_seed"] and seed else -1,
        sampler=values["sampler"],
        width=int(values["width"] or 0) or None,
        height=int(values["height"] or 0) or None,
        num_images=int(values["num_images"]),
        image=open_image(Path(start)) if start else None,
        strength=float(values["strength"]),
    )


def start_input() -> gr.Image:
    """The picture to start from, as the artist sees it; ``start_file`` is what actions get of it."""
    return gr.Image(
        label="Start from a picture",
        type="filepath",
        sources=["upload"],
        height=132,
        buttons=[],
        elem_id="start",
        placeholder="Drop a picture, or press to choose one",
    )


def seed_input() -> gr.Textbox:
    """The seed as text, because a browser's numbers end at 2^53 and seeds at 2^63."""
    return gr.Textbox(
        label="Seed", placeholder="a new one each time", max_length=19, min_width=110, scale=3, elem_id="seed"
    )


def slider(field: fields.Field, label: str, step: float, **options: Any) -> gr.Slider:
    """A slider with a field's range, default and help."""
    return gr.Slider(
        field.low or 0,
        field.high or 0,
        value=float(field.default or 0),
        step=step,
        label=label,
        info=field.help,
        buttons=[],
        **options,
    )


def side(label: str, value: int) -> gr.Number:
    """One side of the picture, in pixels; the pipelines say in their own words what it may be."""
    return gr.Number(
        value,
        label=label,
        step=fields.SIZE_MULTIPLE,
        precision=0,
        min_width=80,
        elem_id=label.lower(),
    )


def sampler_input() -> gr.Dropdown:
    """The samplers by the names that other studios use too."""
    return gr.Dropdown(
        list(NAMES), value=str(fields.SAMPLER.default), label="Sampler", info=fields.SAMPLER.help
    )


def _multiple(pixels: float) -> int:
    return max(int(fields.WIDTH.low or 0), round(pixels / fields.SIZE_MULTIPLE) * fields.SIZE_MULTIPLE)

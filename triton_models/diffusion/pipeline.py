"""One request to its pictures: text encoder, VAE encoder, denoiser, VAE decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .denoise import Cancelled, Step
from .manifest import ModelInfo
from .request import Request
from .runners import Floats
from .timings import Timings
from .tokenizer import PromptTokenizer

SHOWN_LEFT_OUT = 80  # characters of what did not fit that a warning quotes

Pixels = npt.NDArray[np.uint8]
Moments = tuple[Floats, Floats]


class Stages(Protocol):
    """The models that a pipeline calls."""

    def encode_text(self, ids: npt.NDArray[np.int32]) -> Floats:
        """Token ids [U, 77] to embeddings [U, 77, D]."""

    def encode_image(self, image: Pixels) -> Moments:
        """A picture [1, H, W, 3] to the mean and deviation of its latents [1, 4, h, w]."""

    def denoise(
        self, request: Request, embeddings: Floats, image: Moments | None, timings: Timings
    ) -> Iterator[Step]:
        """Every step of the sampling loop, the last with latents unless it was cancelled."""

    def decode(self, latents: Floats) -> Pixels:
        """Latents [1, 4, h, w] to a picture [1, H, W, 3]."""


@dataclass(frozen=True)
class Pictures:
    """The end of a request. ``images`` is [N, H, W, 3]."""

    images: Pixels
    seeds: tuple[int, ...]


class Pipeline:
    """Turns requests into pictures."""

    def __init__(self, info: ModelInfo, tokenizer: PromptTokenizer) -> None:
        self._info = info
        self._tokenizer = tokenizer

    def run(
        self, request: Request, stages: Stages, timings: Timings, cancelled: Callable[[], bool]
    ) -> Iterator[Step | Pictures]:
        """Yield each Step, then the Pictures. Raises Cancelled, within a step."""
        with timings.measure("text_encode"):
            embeddings = stages.encode_text(self._tokens(request, timings))
        image = None
        if request.image is not None:
            with timings.measure("image_encode"):
                image = stages.encode_image(request.image[None])
        latents: Floats | None = None
        for step in stages.denoise(request, embeddings, image, timings):
            latents = step.latents
            yield step
        if latents is None:
            raise Cancelled
        yield Pictures(self._decode(latents, stages, timings, cancelled), request.seeds)

    def _tokens(self, request: Request, timings: Timings) -> npt.NDArray[np.int32]:
        prompts = {"prompt": request.prompt}
        if request.guided:
            prompts = {"negative prompt": request.negative_prompt, **prompts}
        ids = []
        for name, prompt in prompts.items():
            tokens = self._tokenizer.encode(prompt)
            ids.append(tokens.ids)
            if tokens.left_out:
                timings.warnings.append(_did_not_fit(name, tokens.left_out))
        return np.stack(ids)

    def _decode(
        self, latents: Floats, stages: Stages, timings: Timings, cancelled: Callable[[], bool]
    ) -> Pixels:
        """Picture by picture, so that memory stays that of one."""
        scale = self._info.vae_scale_factor
        count, _, height, width = latents.shape
        images = np.empty((count, height * scale, width * scale, 3), np.uint8)
        for index in range(count):
            if cancelled():
                raise Cancelled
            with timings.measure("decode"):
                images[index] = stages.decode(latents[index : index + 1])[0]
        return images


def _did_not_fit(name: str, left_out: str) -> str:
    words = len(left_out.split())
    shown = left_out if len(left_out) <= SHOWN_LEFT_OUT else left_out[:SHOWN_LEFT_OUT] + "…"
    return f"The {name} is too long: the last {words} words were not read: {shown!r}."

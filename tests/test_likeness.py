"""A picture from the real server is the picture of diffusers' own pipeline."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from studio.checkpoint import load, resolve
from studio.client import RawResult, TritonClient
from studio.request import ImageRequest, Pixels
from studio.server.supervise import Supervisor
from tests.test_samplers import SCHEDULERS

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

TOLERANCE = 2.0  # of 255, mean absolute difference
PROMPT = "a red house on a hill under a starry sky"


def _photo(width: int = 256, height: int = 256) -> Pixels:
    y, x = np.mgrid[:height, :width]
    sea = np.stack([40 + x // 4, 90 + y // 3, 200 - y // 3], axis=-1)
    sea[(x - width // 3) ** 2 + (y - height // 3) ** 2 < 900] = (250, 220, 90)
    return sea.astype(np.uint8)


BASE = ImageRequest(PROMPT, steps=6, seed=11)
REQUESTS = {
    "defaults, no guidance": replace(BASE, guidance_scale=1.0, sampler="Euler"),
    "guidance and a negative prompt": replace(BASE, guidance_scale=7.5, negative_prompt="night, boat"),
    "ancestral noise, not square": replace(BASE, sampler="Euler a", width=256, height=192),
    "four pictures": replace(BASE, num_images=4, sampler="DPM++ 2M SDE", steps=4),
    "image to image 0.3": replace(BASE, image=_photo(), strength=0.3, sampler="DDIM", steps=10),
    "image to image 0.6": replace(BASE, image=_photo(192, 256), strength=0.6, sampler="UniPC", steps=10),
    "image to image 0.9": replace(BASE, image=_photo(), strength=0.9, sampler="Euler a", steps=10),
    "Heun, a long prompt": replace(BASE, prompt=PROMPT + ", two green trees" * 30, sampler="Heun", steps=4),
}


@pytest.fixture(scope="module")
def diffusers_pipeline() -> Any:
    torch.set_num_threads(2)
    return load(resolve(""))


@pytest.fixture
def client(studio_server: Supervisor) -> Any:
    client = TritonClient(studio_server.endpoint.address)
    yield client
    client.close()


def draw(client: TritonClient, request: ImageRequest) -> Pixels:
    *_, result = client.generate(request, threading.Event())
    assert isinstance(result, RawResult)
    return result.images


def diffusers_draw(pipeline: Any, request: ImageRequest) -> Pixels:
    kind, options = SCHEDULERS[request.sampler]
    scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **options)
    components = {**pipeline.components, "scheduler": scheduler}
    arguments: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "num_images_per_prompt": request.num_images,
        "generator": [
            torch.Generator("cpu").manual_seed(request.seed + index) for index in range(request.num_images)
        ],
        "output_type": "np",
    }
    if request.image is None:
        arguments |= {"width": request.width, "height": request.height}
        drawn = diffusers.StableDiffusionPipeline(**components)(**arguments)
    else:
        arguments |= {"image": Image.fromarray(request.image), "strength": request.strength}
        drawn = diffusers.StableDiffusionImg2ImgPipeline(**components)(**arguments)
    pixels: Pixels = (drawn.images * 255).round().astype(np.uint8)
    return pixels


@pytest.mark.parametrize("name", REQUESTS)
def test_picture_equals_that_of_diffusers(name: str, client: TritonClient, diffusers_pipeline: Any) -> None:
    request = REQUESTS[name]

    ours, theirs = draw(client, request), diffusers_draw(diffusers_pipeline, request)

    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.float32) - theirs).mean(axis=(1, 2, 3))
    print(f"{name}: {difference.round(3)} of 255; deviation {theirs.std():.1f}")  # noqa: T201
    assert difference.max() <= TOLERANCE


def test_other_seed_is_another_picture(client: TritonClient) -> None:
    """The likeness above is not that of all pictures with each other."""
    one = draw(client, BASE)
    other = draw(client, replace(BASE, seed=12))

    assert np.abs(one.astype(np.float32) - other).mean() > TOLERANCE

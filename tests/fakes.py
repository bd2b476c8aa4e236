"""A scripted client: what the line meets at its seam when no server is wanted; and a lying picture."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from studio.client import RawResult
from studio.errors import Cancelled
from studio.request import ImageRequest, Progress, Span
from studio.server.base import Endpoint
from triton_models.diffusion.manifest import ModelInfo

MODEL = ModelInfo(
    name="postcards",
    family="sd1",
    digest="0123456789abcdef",
    prediction_type="epsilon",
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    train_timesteps=1000,
    timestep_spacing="leading",
    steps_offset=1,
    max_tokens=77,
    embedding_width=256,
    latent_channels=4,
    vae_scale_factor=8,
    default_width=256,
    default_height=256,
    preview_factors=[[0.0, 0.0, 0.0]] * 5,
)


@dataclass
class FakeServer:
    """A supervisor whose server is restored at once, and that counts how often it was asked to."""

    endpoint: Endpoint = field(default_factory=lambda: Endpoint("fake"))
    restored: int = 0

    def restore(self) -> None:
        self.restored += 1


@dataclass
class FakeClient:
    """Draws hills that depend on prompt and seed, step by step; ``faults`` are raised first, in order."""

    seconds_per_step: float = 0.0
    faults: list[Exception] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    asked: list[ImageRequest] = field(default_factory=list)
    steps_done: int = 0

    def generate(self, request: ImageRequest, cancel: threading.Event) -> Iterator[Progress | RawResult]:
        self.asked.append(request)
        began = time.perf_counter()
        spans = [Span("text_encode", 0.001, 0.004)]
        yield Progress("text_encode", 0, request.steps)
        images = np.stack([_picture(request, index) for index in range(request.num_images)])
        for step in range(1, request.steps + 1):
            if cancel.wait(self.seconds_per_step):
                raise Cancelled("Cancelled.")
            if self.faults:
                raise self.faults.pop(0)
            self.steps_done += 1
            now = time.perf_counter() - began
            spans.append(Span("step", now - self.seconds_per_step, self.seconds_per_step))
            yield Progress("step", step, request.steps, _preview(images, step / request.steps, request.seed))
        now = time.perf_counter() - began
        cancel.wait(self.seconds_per_step)
        spans.append(Span("decode", now, self.seconds_per_step))
        seeds = tuple(request.seed + index for index in range(request.num_images))
        yield RawResult(images, seeds, tuple(spans), "openvino bf16", self.warnings)

    def close(self) -> None:
        pass


def _picture(request: ImageRequest, index: int) -> np.ndarray:
    """Hills under a sky, so that screenshots of it look like something."""
    assert request.width is not None
    assert request.height is not None
    rng = np.random.default_rng([request.seed + index, len(request.prompt)])
    y, x = np.mgrid[0 : request.height, 0 : request.width]
    y, x = y / request.height, x / request.width
    top, bottom, ground = rng.integers(60, 255, (3, 3))
    sky = top + (bottom - top) * y[..., None]
    hills = 0.65 + 0.08 * np.sin(x * rng.uniform(3, 9) + rng.uniform(0, 6)) + 0.04 * np.sin(x * 17)
    picture = np.where((y > hills)[..., None], ground * (1.15 - 0.4 * y[..., None]), sky)
    sun = (x - rng.uniform(0.2, 0.8)) ** 2 + (y - 0.3) ** 2 < 0.008
    picture[sun] = (255, 236, 190)
    if request.image is not None:
        picture = picture * request.strength + request.image * (1 - request.strength)
    return picture.clip(0, 255).astype(np.uint8)


def _preview(images: np.ndarray, done: float, seed: int) -> np.ndarray:
    small = images[:, ::8, ::8]
    noise = np.random.default_rng(seed).integers(0, 255, small.shape)
    return (small * done + noise * (1 - done)).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", body), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )

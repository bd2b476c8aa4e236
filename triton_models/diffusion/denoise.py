"""The sampling loop: from noise, or a picture's latents, to latents worth decoding."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from . import samplers
from .manifest import Engine, ModelInfo
from .noise import Generator
from .preview import preview
from .runners import Engines, Floats, Loaded, not_used
from .samplers import Row, Table
from .timings import Timings

TABLES_KEPT = 64
UNSEEN = 127  # the grey of a picture whose turn has not come


class Cancelled(Exception):
    """Whoever asked wants it no more."""


@dataclass(frozen=True)
class Job:
    """What the denoiser is asked for. ``height`` and ``width`` are in latents."""

    embeddings: Floats  # [U, 77, D]: negative and positive with guidance, else the positive alone
    seeds: Sequence[int]  # one per picture
    sampler: str
    steps: int
    guidance_scale: float
    height: int
    width: int
    image: tuple[Floats, Floats] | None = None  # mean and std [1, 4, h, w]: makes it image to image
    strength: float = 1.0


@dataclass(frozen=True)
class Step:
    """A step done. ``preview`` is [N, h, w, 3] RGB; ``latents`` [N, 4, h, w] come with the last."""

    done: int
    total: int
    preview: npt.NDArray[np.uint8]
    latents: Floats | None = None


class _Broken(Exception):
    """An engine broke down over a job."""

    def __init__(self, engine: Engine, reason: str) -> None:
        super().__init__(reason)
        self.engine = engine


class Denoiser:
    """Runs jobs, one at a time, on the engines of the denoiser component."""

    def __init__(self, info: ModelInfo, engines: Engines) -> None:
        self._info = info
        self._engines = engines
        self._table = lru_cache(maxsize=TABLES_KEPT)(self._make_table)

    def run(self, job: Job, timings: Timings, cancelled: Callable[[], bool]) -> Iterator[Step]:
        """Yield every step of ``job``, from the first again where an engine broke down and another took over.

        Raises Cancelled, NoEngine, and EngineUnusable where none is left.
        """
        broken: dict[Engine, str] = {}
        while True:
            try:
                yield from self._attempt(job, timings, cancelled, broken)
                return
            except _Broken as breakdown:
                broken[breakdown.engine] = str(breakdown)

    def _attempt(
        self, job: Job, timings: Timings, cancelled: Callable[[], bool], broken: Mapping[Engine, str]
    ) -> Iterator[Step]:
        table = self._table(job.sampler, job.steps, None if job.image is None else job.strength)
        parts = self._parts(job, broken)
        timings.warnings = [
            *self._engines.warnings,
            *(not_used(engine, why) for engine, why in broken.items()),
        ]
        timings.engine = " and ".join(dict.fromkeys(loaded.engine.label for loaded, _ in parts))
        latents = np.zeros((len(job.seeds), self._info.latent_channels, job.height, job.width), np.float32)
        previews = np.full((len(job.seeds), job.height, job.width, 3), UNSEEN, np.uint8)
        for number, (loaded, part) in enumerate(parts):
            walk = _Walk(job, table, loaded, list(job.seeds[part]))
            for done, foreseen in walk.steps(timings, cancelled):
                previews[part] = preview(foreseen, self._info.preview_factors)
                if done < table.steps:
                    yield Step(number * table.steps + done, len(parts) * table.steps, previews)
            latents[part] = walk.latents
            if not table.rows:
                previews[part] = preview(walk.latents, self._info.preview_factors)
            last = latents if number + 1 == len(parts) else None
            yield Step((number + 1) * table.steps, len(parts) * table.steps, previews, last)

    def _make_table(self, sampler: str, steps: int, strength: float | None) -> Table:
        return samplers.table(sampler, self._info, steps, strength)

    def _parts(self, job: Job, broken: Mapping[Engine, str]) -> list[tuple[Loaded, slice]]:
        """The pictures of ``job`` shared out to engines."""
        parts: list[tuple[Loaded, slice]] = []
        first = 0
        while first < len(job.seeds):
            loaded = self._engines.pick(len(job.seeds) - first, job.height, job.width, without=broken)
            parts.append((loaded, slice(first, first + loaded.batch)))
            first += loaded.batch
        return parts


class _Walk:
    """One engine's way through a table for some of the pictures of a job."""

    def __init__(self, job: Job, table: Table, loaded: Loaded, seeds: Sequence[int]) -> None:
        self._rows = table.rows
        self._engine = loaded.engine
        self._noise = [Generator(seed) for seed in seeds]
        self._shape = (4, job.height, job.width)
        self.latents = self._first_latents(job, table)
        embeddings = np.repeat(job.embeddings, len(seeds), axis=0)
        guidance = _guidance(len(seeds), len(job.embeddings), job.guidance_scale)
        with self._breakdowns():
            self._steps = loaded.runner.steps(self.latents, embeddings, guidance)

    def steps(self, timings: Timings, cancelled: Callable[[], bool]) -> Iterator[tuple[int, Floats]]:
        """Yield how many steps are done and the latents foreseen, while the engine works on the next.

        ``latents`` are the walk's once it has ended. Raises Cancelled and _Broken.
        """
        waiting, running = deque(self._rows), deque[tuple[Row, float]]()
        noise = self._draw_for(waiting)
        foreseen: tuple[int, Floats] | None = None
        ended = 0.0
        try:
            while waiting or running:
                while waiting and len(running) <= self._steps.ahead:
                    if cancelled():
                        raise Cancelled
                    row, started = waiting.popleft(), time.monotonic()
                    with self._breakdowns():
                        self._steps.start(row, noise)
                    running.append((row, started))
                    noise = self._draw_for(waiting)
                if foreseen is not None:
                    yield foreseen
                row, started = running.popleft()
                with self._breakdowns():
                    denoised = self._steps.wait()
                started, ended = max(started, ended), time.monotonic()
                timings.add("step", started, ended)
                after = running[0][0] if running else waiting[0] if waiting else None
                whole = after is None or after.step > row.step
                foreseen = (row.step + 1, denoised.copy()) if whole else None
        finally:  # also when the caller leaves: the engine writes into buffers of ours
            with suppress(Exception):
                for _ in running:
                    self._steps.wait()
        if foreseen is not None:
            self.latents = self._steps.latents()
            if not np.isfinite(self.latents).all():
                raise _Broken(self._engine, "its numbers left the range of its precision")
            yield foreseen

    def _first_latents(self, job: Job, table: Table) -> Floats:
        """Draws are made in diffusers' order: the picture's posterior first, then where the walk begins."""
        from_image, from_noise = table.initial
        if job.image is None:
            return np.float32(from_noise) * self._draw()
        mean, std = job.image
        image = mean + std * self._draw()
        return (
            image
            if not self._rows
            else np.float32(from_image) * image + np.float32(from_noise) * self._draw()
        )

    def _draw(self) -> Floats:
        return np.stack([generator.randn(self._shape) for generator in self._noise])

    def _draw_for(self, waiting: Sequence[Row]) -> Floats | None:
        return self._draw() if waiting and waiting[0].draws_noise else None

    @contextmanager
    def _breakdowns(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each runtime raises its own, and they share no base class
            raise _Broken(self._engine, str(error)) from error


def _guidance(batch: int, prompts: int, scale: float) -> Floats:
    """The weights [N, U·N] of the UNet's batch in each picture: 1 − scale negative, scale positive."""
    one = np.eye(batch, dtype=np.float32)
    if prompts == 1:
        return one
    return np.concatenate([one * np.float32(1 - scale), one * np.float32(scale)], axis=1)

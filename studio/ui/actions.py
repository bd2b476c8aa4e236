"""What the page's buttons do. Each action yields only what changes; an error never clears an input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio import infotext
from studio.errors import StudioError
from studio.generate import Studio
from studio.image import open_image, read_text
from studio.jobs import Job, Jobs
from studio.request import ImageResult
from studio.ui import engines as engines_ui
from studio.ui import gallery, stage
from studio.ui.controls import Controls, request_from
from studio.ui.engines import Engines
from studio.ui.waterfall import waterfall

# A page is told of a job at most this often; steps that come faster share a message.
SECONDS_BETWEEN_UPDATES = 0.05

Updates = dict[Any, Any]


@dataclass(frozen=True)
class Outputs:
    """The parts of the page that actions write."""

    stage: gr.HTML
    notice: gr.HTML
    waterfall: gr.HTML
    strip: gr.HTML
    waiting: gr.HTML
    cancel: gr.Button
    drawn: gr.Textbox  # the seed of the newest picture; the page puts it into an unlocked seed
    shown: gr.State  # how many pictures the strip holds


class Actions:
    """The page's actions on one studio."""

    def __init__(
        self, studio: Studio, jobs: Jobs, controls: Controls, outputs: Outputs, engines: Engines | None
    ) -> None:
        self._studio = studio
        self._jobs = jobs
        self._controls = controls
        self._out = outputs
        self._engines = engines

    async def generate(self, *values: Any) -> AsyncIterator[Updates]:
        """Queue what the inputs describe and follow it. The last value is whose page asks."""
        *inputs, owner = values
        asked = dict(zip(self._controls.asked(), inputs, strict=True))
        try:
            request = await asyncio.to_thread(request_from, asked)
        except StudioError as error:
            yield {self._out.notice: stage.notice(error)}
            return
        job = self._jobs.submit(request, owner)
        yield {self._out.notice: "", self._out.cancel: gr.update(interactive=True)}
        async for updates in self._follow(job):
            if job.result:
                updates[self._out.drawn] = str(job.result.request.seed)
            yield updates

    async def arrive(self, owner: str) -> AsyncIterator[Updates]:
        """A page that opens: the newest picture, or the jobs that this page left running."""
        mine = self._jobs.of(owner)
        updates = {self._out.strip: gallery.strip(self._studio.history), **self._at_rest(owner)}
        if said := self._studio.history.notices:
            updates[self._out.notice] = stage.notice(warnings=said)
        if mine and mine[-1].finished and (mine[-1].result or not mine[-1].told):
            updates |= self._ended(mine[-1])
        yield updates
        for job in mine:
            if not job.finished:
                yield {self._out.cancel: gr.update(interactive=True)}
                async for updates in self._follow(job):
                    yield updates

    def cancel(self, owner: str) -> None:
        """Stop the picture being made for this page, or take its next one out of the queue."""
        unfinished = [job for job in self._jobs.of(owner) if not job.finished]
        if unfinished:
            self._jobs.cancel(unfinished[0])

    def clear(self, owner: str) -> None:
        """Take everything of this page that still waits out of the queue."""
        for job in self._jobs.of(owner):
            if job.state == "waiting":
                self._jobs.cancel(job)

    def pick(self, event: gr.EventData) -> Updates:
        """A picture of the strip: show it, and bring its settings back."""
        picture = self._studio.history.get(int(event.of))
        if picture is None:
            return {
                self._out.notice: stage.notice(warnings=["That picture's file is gone from its folder."]),
                self._out.strip: gallery.strip(self._studio.history),
            }
        return {
            self._out.stage: stage.kept(picture),
            self._out.waterfall: waterfall(picture.spans),
            self._out.notice: "",
            **self._controls.filled(picture.request, picture.start_image),
        }

    def use_as_start(self, event: gr.EventData) -> Updates:
        """Go on from a finished picture."""
        picture = self._studio.history.get(int(event.of))
        if picture is None:
            return {self._out.notice: stage.notice(warnings=["That picture's file is gone from its folder."])}
        size = {self._controls.width: picture.request.width, self._controls.height: picture.request.height}
        return {
            self._controls.start: str(picture.file),
            self._controls.strength: gr.update(visible=True),
            self._out.notice: "",
            **(size if picture.request.width else {}),
        }

    def discard(self, event: gr.EventData) -> Updates:
        """Put a picture aside: out of the strip and into a folder of its own."""
        picture = self._studio.history.get(int(event.of))
        if picture is None:
            return {self._out.strip: gallery.strip(self._studio.history)}
        try:
            where = self._studio.history.discard(picture)
        except StudioError as error:
            return {self._out.notice: stage.notice(error)}
        return {
            self._out.notice: stage.notice(warnings=[f"Put aside; the file is now {where}."]),
            self._out.strip: gallery.strip(self._studio.history),
            **self._at_rest(),
        }

    def make(self, event: gr.EventData) -> Updates:
        """Have an engine made for a size that has none."""
        return {self._out.notice: engines_ui.make(self._engines, event.of)} if self._engines else {}

    def opened(self, file: str | None) -> Updates:
        """A start image was chosen: check it now, and offer its settings when it carries some."""
        if file is None:
            return {}
        try:
            open_image(Path(file))
            recipe = _recipe(Path(file))
        except StudioError as error:
            return {self._controls.start: None, self._out.notice: stage.notice(error)}
        said = stage.offer("This picture carries its settings.", "Use them", "restore") if recipe else ""
        return {self._controls.strength: gr.update(visible=True), self._out.notice: said}

    def restore(self, file: str | None) -> Updates:
        """Bring back the settings that a picture's file carries; one without becomes the start image."""
        if file is None:
            return {}
        try:
            recipe = _recipe(Path(file))
            if recipe is None:
                open_image(Path(file))
        except StudioError as error:
            return {self._out.notice: stage.notice(error)}
        if recipe is None:
            return {
                self._controls.start: file,
                self._out.notice: stage.notice(
                    warnings=["It carries no settings; it is the start image now."]
                ),
            }
        said = []
        if recipe.unknown_sampler:
            ours = recipe.request.sampler
            said = [f"The sampler “{recipe.unknown_sampler}” is not here; {ours} stands in for it."]
        start = self._studio.history.start(recipe.pairs.get("Init image hash", ""))
        filled = self._controls.filled(recipe.request, start)
        return {self._out.notice: stage.notice(warnings=said or ["Its settings are back."]), **filled}

    def older(self, shown: int) -> Updates:
        """More of what was made."""
        shown += gallery.PAGE
        return {self._out.shown: shown, self._out.strip: gallery.strip(self._studio.history, shown)}

    async def _follow(self, job: Job) -> AsyncIterator[Updates]:
        version, said = -1, ""
        while not job.finished:
            updates: Updates = {}
            mine = [other for other in self._jobs.of(job.owner) if not other.finished]
            if job.version != version and mine and mine[0] is job:  # else an earlier one has the stage
                version = job.version
                updates[self._out.stage] = stage.working(job, self._jobs.ahead_of(job))
            # Sent only when it changes: a button that is drawn anew while it is pressed loses the press.
            if (line := stage.waiting(len(mine) - 1)) != said:
                said = updates[self._out.waiting] = line
            if updates:
                yield updates
            await asyncio.sleep(SECONDS_BETWEEN_UPDATES)
        yield self._ended(job)
        job.told = True  # not reached when the page went away meanwhile

    def _ended(self, job: Job) -> Updates:
        left = sum(not other.finished for other in self._jobs.of(job.owner))
        updates: Updates = {
            self._out.cancel: gr.update(interactive=left > 0),
            self._out.waiting: stage.waiting(left - 1),
        }
        if job.error is not None:
            updates[self._out.notice] = stage.notice(job.error)
        if job.result is not None:
            if left and job.result.warnings:  # the next picture takes the stage, and what is said there
                updates[self._out.notice] = stage.notice(warnings=job.result.warnings)
            return updates | {
                self._out.stage: stage.finished(job.result, self._studio.history, self._offer(job.result)),
                self._out.waterfall: waterfall(job.result.spans),
                self._out.strip: gallery.strip(self._studio.history),
            }
        return updates if left else updates | self._at_rest(job.owner)

    def _at_rest(self, owner: str = "") -> Updates:
        """What is seen while nothing is drawn: the newest picture, be it one that could not be saved."""
        drawn = [job for job in self._jobs.of(owner) if job.result]
        if drawn and drawn[-1].unsaved:
            result = drawn[-1].result
            assert result is not None
            return {
                self._out.stage: stage.finished(result, self._studio.history),
                self._out.waterfall: waterfall(result.spans),
            }
        newest = self._studio.history.recent(1)
        return {
            self._out.stage: stage.kept(newest[0]) if newest else stage.empty(),
            self._out.waterfall: waterfall(newest[0].spans) if newest else "",
        }

    def _offer(self, result: ImageResult) -> str:
        if self._engines is None:
            return ""
        return engines_ui.offer(self._engines, result, self._studio.model.vae_scale_factor)


def _recipe(file: Path) -> infotext.Recipe | None:
    """The settings that a picture carries. A camera's or a screenshot's remark is none."""
    recipe = infotext.read(read_text(file) or "")
    return recipe if recipe.pairs else None

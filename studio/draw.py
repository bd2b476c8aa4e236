"""``generate``: one request from the command line, on a studio that runs already or on one of its own."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio import infotext, running
from studio.checkpoint import resolve
from studio.client import TritonClient
from studio.engines.export import export
from studio.errors import SaveError, ServerLostError, why
from studio.generate import Studio
from studio.history import History
from studio.image import write_png
from studio.report import silent
from studio.request import ImageRequest, ImageResult, Progress
from studio.server.base import Endpoint
from studio.settings import Settings
from studio.start import open_studio, serves, until_stopped
from studio.terminal import Terminal
from triton_models.diffusion.manifest import ModelInfo

RESTORE_SECONDS = 60.0
DEATH_SECONDS = 2.0  # a server that is ending may answer for so long


class Elsewhere:
    """The server of a studio that runs already. Its studio brings it back, at another address."""

    def __init__(self, cache_dir: Path, instance: running.Instance) -> None:
        self._cache_dir = cache_dir
        self._instance = instance

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listened when the studio last said so."""
        return Endpoint(self._instance.address)

    def restore(self) -> None:
        """Return once the studio says where its server is now. Raises ServerLostError."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < RESTORE_SECONDS:
            now = self._seen_now()
            if now.address != self._instance.address or (waited > DEATH_SECONDS and _answers(now.address)):
                self._instance = now
                return
            time.sleep(0.2)
        raise ServerLostError(
            f"The studio at {self._instance.url} lost its server and has not brought it back.",
            hint="Its window says why. Ask again once it serves.",
        )

    def _seen_now(self) -> running.Instance:
        for instance in running.running(self._cache_dir):
            if instance.pid == self._instance.pid:
                return instance
        raise ServerLostError("The studio that was drawing has ended.", hint="Ask again.")


def _answers(address: str) -> bool:
    client = TritonClient(address)
    try:
        return client.ready()
    finally:
        client.close()


def draw(
    settings: Settings, request: ImageRequest, output: Path | None, *, as_json: bool, terminal: Terminal
) -> int:
    """Draw ``request``, write its pictures to ``output`` and say where they are; returns the exit status."""
    with until_stopped(terminal), _studio(settings, terminal) as studio:
        result = _follow(studio, request, terminal)
    files = [str(file) for file in _deliver(result, output)]
    for warning in result.warnings:
        terminal.line(warning)
    sys.stdout.write(f"{json.dumps(_facts(result, files), indent=1) if as_json else chr(10).join(files)}\n")
    return 0


@contextmanager
def _studio(settings: Settings, terminal: Terminal) -> Iterator[Studio]:
    for instance in running.running(settings.cache_dir):
        if instance.address and instance.serves == serves(settings):
            terminal.line(f"Using the studio at {instance.url}")
            model = ModelInfo.load(export(resolve(settings.model, silent), settings.cache_dir, silent))
            with History(settings.data_dir) as history:
                studio = Studio(Elsewhere(settings.cache_dir, instance), model, history)
                try:
                    yield studio
                finally:
                    studio.close()
            return
    with open_studio(settings, terminal) as opened:
        yield opened.studio


def _follow(studio: Studio, request: ImageRequest, terminal: Terminal) -> ImageResult:
    for item in studio.generate(request):
        if isinstance(item, ImageResult):
            terminal.line(f"Drawn        {item.seconds:.2f} s on {item.engine}, seed {item.seeds[0]}")
            return item
        terminal.passing(_sentence(item))
    raise AssertionError("generate() ends with an ImageResult or an error")


def _sentence(progress: Progress) -> str:
    if progress.stage != "step":
        return progress.stage.replace("_", " ")
    pace = f", {progress.steps_per_second:.1f} steps/s" if progress.steps_per_second else ""
    return f"step {progress.step} of {progress.steps}{pace}"


def _deliver(result: ImageResult, output: Path | None) -> list[Path]:
    """Copy the pictures to ``output`` (several: NAME-1, NAME-2, …); without one, where they were saved."""
    if output is None:
        return list(result.files)
    output = output if output.suffix.lower() == ".png" else output.with_name(output.name + ".png")
    count = len(result.images)
    targets = [
        output if count == 1 else output.with_stem(f"{output.stem}-{number}")
        for number in range(1, count + 1)
    ]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for index, target in enumerate(targets):
            if len(result.files) == count:
                shutil.copyfile(result.files[index], target)
            else:  # the studio's own folder could not be written
                write_png(target, result.images[index], _words(result, index))
    except OSError as error:
        kept = f"It is kept as {result.files[0]}." if result.files else ""
        raise SaveError(f"{output} could not be written: {why(error)}.", state=kept) from error
    return targets


def _words(result: ImageResult, index: int) -> str:
    return infotext.write(result.request, seed=result.seeds[index], extras={"Engine": result.engine})


def _facts(result: ImageResult, files: list[str]) -> dict[str, object]:
    stages: dict[str, float] = {}
    for span in result.spans:
        stages[span.stage] = stages.get(span.stage, 0.0) + span.seconds
    return {
        "files": files,
        "seeds": list(result.seeds),
        "model": result.model,
        "engine": result.engine,
        "seconds": result.seconds,
        "stages": stages,
        "spans": [{"stage": one.stage, "start": one.start, "seconds": one.seconds} for one in result.spans],
        "warnings": list(result.warnings),
    }

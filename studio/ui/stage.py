"""The middle of the page: the picture large, its progress while it is made, and what became of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from studio.errors import StudioError
from studio.history import History, Picture
from studio.image import png_bytes
from studio.jobs import Job
from studio.request import ImageRequest, ImageResult, Pixels, Progress
from studio.ui.gallery import file_url
from studio.ui.waterfall import NAMES, seconds, summary

EXAMPLES = (
    "a violet house in the middle of the woods at sunset",
    "two yellow balloons over snowy mountains at dawn",
    "a blue tent on the left by a lake at night, pine trees",
    "a pink cat on the right in a meadow, cherry trees, rose tones",
)


def empty() -> str:
    """What is there before the first picture: an invitation."""
    chips = "".join(
        f'<li><button type="button" data-do="example" data-words="{words}">{words}</button></li>'
        for words in EXAMPLES
    )
    return (
        '<div class="stage empty"><div><p class="big">What shall we draw?</p>'
        f"<p>Write it in your own words, or start with one of these.</p><ul>{chips}</ul></div></div>"
    )


def working(job: Job, ahead: int) -> str:
    """A job on its way: the latest preview, and how far it is."""
    progress = job.progress or Progress("queue")
    request = job.request
    share = progress.step / progress.steps if progress.steps else 0.0
    images = (
        "".join(_preview(preview) for preview in progress.previews) if progress.previews is not None else ""
    )
    line, detail = _said(job, progress, ahead)
    steps = progress.steps or request.steps
    return (
        f'<div class="stage working" data-step="{progress.step}" data-steps="{steps}">'
        f'<div class="frame" {_shape(request, progress.previews)}>{_grid(images, request.num_images)}</div>'
        f'<div class="progress" role="progressbar" aria-label="Drawing" aria-valuemin="0" aria-valuemax="100"'
        f' aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></div>'
        f'<p class="caption"><b>{line}</b><span>{detail}</span></p></div>'
    )


def finished(result: ImageResult, history: History, offered: str = "") -> str:
    """The pictures of a request, each with what can be done with it, and what is to be said of them."""
    pictures = [history.find(file) for file in result.files]
    if any(pictures) and len(pictures) == len(result.seeds):
        frames = "".join(_kept(picture) for picture in pictures if picture)
    else:
        frames = "".join(
            _unkept(pixels, seed) for pixels, seed in zip(result.images, result.seeds, strict=True)
        )
    facts = [_seeds(result.seeds), summary(result.spans), result.engine, result.model]
    return _shown(
        frames, result.request, len(result.seeds), facts, [_place(file) for file in result.files]
    ) + (f'<div class="remarks">{notice(warnings=result.warnings)}{offered}</div>')


def kept(picture: Picture) -> str:
    """A picture of the history."""
    facts = [f"seed {picture.request.seed}", summary(picture.spans) if picture.spans else ""]
    facts += [picture.engine, picture.model]
    return _shown(_kept(picture), picture.request, 1, facts, [_place(picture.file)])


def waiting(count: int) -> str:
    """How many pictures wait behind the one being made; empty for none."""
    if count < 1:
        return ""
    return f'<p>{count} more waiting · <button type="button" data-do="clear">clear</button></p>'


def notice(error: StudioError | None = None, warnings: Sequence[str] = ()) -> str:
    """One calm sentence with what to do next; empty when there is nothing to say."""
    if error is not None:
        rest = " ".join(part for part in (error.state, error.hint) if part)
        return (
            f'<div class="notice fault" role="alert"><b>{escape(error.what)}</b> {escape(rest)}{_CLOSE}</div>'
        )
    return "".join(
        f'<div class="notice" role="status">{escape(warning)}{_CLOSE}</div>'
        for warning in warnings
        if warning
    )


def offer(sentence: str, button: str, action: str, of: str = "") -> str:
    """A sentence with one thing that can be done about it."""
    return (
        f'<div class="notice offer" role="status">{escape(sentence)} '
        f'<button type="button" data-do="{action}" data-of="{of}">{escape(button)}</button>{_CLOSE}</div>'
    )


_CLOSE = '<button type="button" class="close" data-do="dismiss" aria-label="Dismiss">×</button>'


def _said(job: Job, progress: Progress, ahead: int) -> tuple[str, str]:
    if job.state == "waiting":
        return "Waiting", f"{ahead} ahead of this one" if ahead else "starting"
    if progress.stage == "restart":
        return "Restarting the engine", "it stopped; this picture starts again by itself"
    if progress.stage == "step" and progress.steps:
        pace = f"{progress.steps_per_second:.1f} it/s" if progress.steps_per_second else ""
        left = f"{seconds(progress.eta_seconds)} left" if progress.eta_seconds else ""
        return f"Step {progress.step} of {progress.steps}", " · ".join(filter(None, (pace, left)))
    return NAMES.get(progress.stage, "Starting"), ""


def _shown(frames: str, request: ImageRequest, count: int, facts: Sequence[str], files: Sequence[str]) -> str:
    line = " · ".join(escape(fact) for fact in facts if fact)
    where = f'<span class="where" title="Saved here">{escape(files[0])}</span>' if files else ""
    return (
        f'<div class="stage done" data-pictures="{count}">'
        f'<div class="frame" {_shape(request, None)}>{_grid(frames, count)}</div>'
        f'<p class="caption"><span>{line}</span>{where}</p></div>'
    )


def _place(file: Path) -> str:
    """Where a file is, as its owner would say it."""
    try:
        return str(Path("~") / file.relative_to(Path.home()))
    except (ValueError, RuntimeError):  # elsewhere, or nobody's home is known
        return str(file)


def _kept(picture: Picture) -> str:
    url, words = file_url(picture.file), escape(picture.request.prompt.strip() or "no words", quote=True)
    name = escape(picture.file.name, quote=True)
    return (
        f'<figure><img src="{url}" alt="{words}"><figcaption>'
        f'<button type="button" data-do="start" data-of="{picture.id}">Use as start image</button>'
        f'<button type="button" data-do="reuse" data-of="{picture.id}">Use its settings</button>'
        f'<button type="button" data-do="discard" data-of="{picture.id}">Put aside</button>'
        f'<a href="{url}" download="{name}">Download</a></figcaption></figure>'
    )


def _unkept(pixels: Pixels, seed: int) -> str:
    url = f"data:image/png;base64,{base64.b64encode(png_bytes(pixels)).decode()}"
    return (
        f'<figure><img src="{url}" alt="the picture, not saved"><figcaption>'
        f'<a href="{url}" download="{seed}.png">Download (not saved yet)</a></figcaption></figure>'
    )


def _preview(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt=""></figure>'


def _grid(frames: str, count: int) -> str:
    columns = 1 if count == 1 else 2 if count <= 4 else 3 if count <= 6 else 4
    return f'<div class="grid" style="--columns:{columns}">{frames}</div>'


def _shape(request: ImageRequest, previews: Pixels | None) -> str:
    if request.width and request.height:
        width, height = request.width, request.height
    elif previews is not None:
        height, width = previews.shape[1:3]
    else:
        width = height = 1
    return f'style="--shape:{width / height:.4f}"'


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} – {seeds[-1]}"

"""Engines on the page: what is being made of them, and the offer to make one for a size without."""

from __future__ import annotations

from html import escape
from typing import Protocol

from studio.engines.key import Profile
from studio.engines.swap import Status
from studio.request import ImageResult
from studio.ui import stage


class Engines(Protocol):
    """What makes engines while the studio serves: a Swapper."""

    @property
    def status(self) -> Status:
        """What is being made now."""

    def offer(self, batch: int, height: int, width: int) -> Profile | None:
        """What to want for pictures of this size (in latents) to be faster."""

    def want(self, profile: Profile) -> None:
        """Have the engines of that profile made."""


def line(status: Status) -> str:
    """What is being made and how far it is; empty when nothing is."""
    if not status.message:
        return ""
    bar = ""
    if status.fraction is not None:
        percent = round(100 * status.fraction)
        bar = (
            f'<span class="bar" role="progressbar" aria-label="Engine" aria-valuemin="0" aria-valuemax="100"'
            f' aria-valuenow="{percent}"><i style="width:{percent}%"></i></span>'
        )
    return f'<p role="status">{escape(status.message)}{bar}</p>'


def offer(engines: Engines, result: ImageResult, scale: int) -> str:
    """The offer of an engine for pictures like these, ``scale`` pixels a latent; empty where none helps."""
    count, rows, columns = result.images.shape[:3]
    size = (count, rows // scale, columns // scale)
    if engines.offer(*size) is None:
        return ""
    return stage.offer(
        f"{count} × {columns} × {rows} has no engine of its own yet, so it ran on the slower runtime.",
        "Make one",
        "make",
        ",".join(map(str, size)),
    )


def make(engines: Engines, size: str) -> str:
    """Take the offer up; returns what to say."""
    profile = engines.offer(*(int(part) for part in size.split(",")))
    if profile is not None:
        engines.want(profile)
    return stage.notice(
        warnings=["It is made while nothing is being drawn, and used as soon as it is proven."]
    )

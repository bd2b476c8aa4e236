"""The strip of what was made, newest first."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from urllib.parse import quote

from studio.history import History, Picture

PAGE = 40


def file_url(file: Path) -> str:
    """Where the page finds a picture: relative, so that it also works behind a shared link."""
    return f"gradio_api/file={quote(str(file))}"


def strip(history: History, shown: int = PAGE) -> str:
    """The newest ``shown`` pictures as buttons, and one for older ones when there are more."""
    pictures = history.recent(shown + 1)
    if not pictures:
        return ""
    items = "".join(_thumbnail(picture) for picture in pictures[:shown])
    older = '<li><button type="button" class="older" data-do="older">Older…</button></li>'
    return (
        '<h2 id="made">Made so far</h2>'
        f'<ul class="strip" aria-labelledby="made">{items}{older if len(pictures) > shown else ""}</ul>'
    )


def _thumbnail(picture: Picture) -> str:
    made = time.strftime("%d %b, %H:%M", time.localtime(picture.made_at))
    words = picture.request.prompt.strip() or "no words"
    label = escape(f"{words}; seed {picture.request.seed}; {made}", quote=True)
    return (
        f'<li><button type="button" data-do="pick" data-of="{picture.id}"'
        f' title="{label}" aria-label="{label}">'
        f'<img src="{file_url(picture.file)}" alt="" loading="lazy" decoding="async"></button></li>'
    )

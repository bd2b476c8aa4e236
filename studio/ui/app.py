"""The studio as a web page: built on Gradio, served locally, complete with the network unplugged."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware

from studio import __version__
from studio.errors import SettingsError
from studio.generate import Studio
from studio.jobs import Jobs
from studio.report import Report, silent
from studio.ui.create import create, engines_line
from studio.ui.engines import Engines
from studio.ui.theme import theme

USER = "artist"
MAX_UPLOAD = "64mb"
UPLOADS_KEPT_SECONDS = 86_400
_HERE = Path(__file__).parent
# The page may talk to the studio and to nobody else.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'self'"
)


@dataclass(frozen=True)
class Page:
    """A page being served."""

    url: str
    share_url: str  # empty unless shared
    password: str  # empty when only this machine can reach the page
    blocks: gr.Blocks
    jobs: Jobs

    def close(self) -> None:
        """Stop serving; unfinished pictures are cancelled."""
        self.jobs.close()
        self.blocks.close(verbose=False)


def build(studio: Studio, jobs: Jobs, engines: Engines | None = None) -> gr.Blocks:
    """The whole page."""
    page = gr.Blocks(
        title="Triton Studio",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(3600, UPLOADS_KEPT_SECONDS),
    )
    with page:
        gr.HTML(_header(studio), elem_id="header", js_on_load=_THEME_BUTTON, apply_default_css=False)
        if engines is not None:
            engines_line(engines)
        create(studio, jobs, page, engines)
    page.queue(default_concurrency_limit=None, api_open=False)
    return page


def launch(
    studio: Studio,
    *,
    port: int = 7860,
    listen: bool = False,
    share: bool = False,
    password: str = "",
    browser: bool = True,
    workers: int = 1,
    engines: Engines | None = None,
    report: Report = silent,
) -> Page:
    """Serve the page and return at once.

    Reachable from this machine only, unless ``listen`` (the local network) or ``share`` (a public link);
    both ask for a password, made here when none is given. ``workers`` pictures are made at a time: one
    for each GPU; ``engines`` makes better ones meanwhile. Raises SettingsError when the port is taken.
    """
    guarded = listen or share
    password = (password or secrets.token_urlsafe(9)) if guarded else password
    os.environ["GRADIO_TEMP_DIR"] = _uploads(studio.history.data_dir)
    jobs = Jobs(studio, workers)
    blocks = build(studio, jobs, engines)
    history = studio.history
    try:
        _, url, _ = blocks.launch(
            prevent_thread_lock=True,
            inbrowser=False,
            quiet=True,
            share=False,
            server_name="0.0.0.0" if listen else "127.0.0.1",
            server_port=port,
            auth=(USER, password) if password else None,
            auth_message="The password is in the window that started the studio." if password else None,
            allowed_paths=[str(history.pictures_dir), str(history.starts_dir)],
            max_file_size=MAX_UPLOAD,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            pwa=False,
            theme=theme(),
            css_paths=_HERE / "page.css",
            head=f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
            app_kwargs={"middleware": [Middleware(_Headers)], "docs_url": None, "redoc_url": None},
        )
    except OSError as error:
        jobs.close()
        raise SettingsError(f"Port {port} is taken.", hint="Choose another one with --port.") from error
    public = _share(blocks, report) if share else ""
    if browser and _has_desktop():
        webbrowser.open(url)
    return Page(url, public, password, blocks, jobs)


def _uploads(data_dir: Path) -> str:
    """A folder for start images; Gradio's own, one in /tmp for all users, fails for the second of them.

    What a killed studio left there goes after a day.
    """
    folder = data_dir / "uploads"
    try:
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            if time.time() - old.stat().st_mtime > UPLOADS_KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    except OSError:  # pictures cannot be kept there either, and that is said
        return tempfile.mkdtemp(prefix="gradio-")
    return str(folder)


def _has_desktop() -> bool:
    # Without one, a text browser would take over the terminal that the studio speaks in.
    if sys.platform != "linux" or "microsoft" in platform.release().lower():
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _share(blocks: gr.Blocks, report: Report) -> str:
    """A public link through Gradio's relay, or a sentence why there is none."""
    from gradio import networking

    try:
        link = networking.setup_tunnel(
            local_host=blocks.server_name,
            local_port=blocks.server_port,
            share_token=blocks.share_token,
            share_server_address=None,
            share_server_tls_certificate=None,
        )
    except Exception as error:  # the relay's client raises whatever its download ran into
        report(f"No public link could be made ({type(error).__name__}); the studio goes on locally.", None)
        return ""
    return str(link)


class _Headers:
    """Adds the headers that keep the page to itself to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_with_headers)


_THEME_BUTTON = (
    "element.querySelector('button').addEventListener('click', () => window.studio.toggleTheme());"
)


def _header(studio: Studio) -> str:
    return (
        f'<header><h1 title="Triton Studio {__version__}">Triton <em>Studio</em></h1>'
        f"<p>{escape(studio.model.name)}</p>"
        '<button type="button" aria-label="Light or dark" title="Light or dark">◐</button></header>'
    )

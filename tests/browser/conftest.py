"""A real Chromium, and pages served for it: over the scripted client, and over the real server."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fakes import MODEL, FakeClient, FakeServer
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from studio.client import TritonClient
from studio.generate import Studio
from studio.history import History
from studio.server.supervise import Supervisor
from studio.ui.app import launch
from studio.ui.engines import Engines
from triton_models.diffusion.manifest import ModelInfo

LOCAL = {"127.0.0.1", "localhost"}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium; a missing one skips, but not in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "no Chromium: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A fresh browser profile; its requests must all stay on this machine, and its scripts not fail."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(40_000)
    strangers: list[str] = []
    faults: list[str] = []
    context.on("request", lambda request: strangers.append(request.url) if _leaves(request.url) else None)
    context.on("weberror", lambda error: faults.append(str(error.error)))
    yield context
    context.close()
    assert strangers == []
    assert faults == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """One tab of it."""
    return context.new_page()


@dataclass
class Served:
    """A page being served, with what stands behind it."""

    url: str
    studio: Studio
    client: FakeClient | None = None


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serves pages over scripted clients: ``serve(seconds_per_step=…)``."""
    with ExitStack() as stack:

        def serve(
            data: Path = tmp_path / "data",
            password: str = "",
            engines: Engines | None = None,
            **script: object,
        ) -> Served:
            client = FakeClient(**script)
            history = stack.enter_context(History(data))
            studio = Studio(FakeServer(), MODEL, history, lambda address: client)
            served = launch(studio, port=free_port(), browser=False, password=password, engines=engines)
            stack.callback(served.close)
            return Served(served.url, studio, client)

        yield serve


@pytest.fixture
def real(studio_server: Supervisor, exported: Path, tmp_path: Path) -> Iterator[Served]:
    """A page over the real server and the bundled checkpoint."""
    with History(tmp_path / "data") as history:
        studio = Studio(studio_server, ModelInfo.load(exported), history, TritonClient)
        served = launch(studio, port=free_port(), browser=False)
        yield Served(served.url, studio)
        served.close()
        studio.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _leaves(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in LOCAL

"""How the page is served: to whom, with which headers, and what happens without a network."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fakes import MODEL, FakeClient, FakeServer

from studio.errors import SettingsError
from studio.generate import Studio
from studio.history import History
from studio.request import ImageRequest
from studio.ui.app import USER, Page, launch
from tests.patience import eventually


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    with ExitStack() as stack:
        history = stack.enter_context(History(tmp_path))

        def serve(**options: object) -> Page:
            studio = Studio(FakeServer(), MODEL, history, lambda address: FakeClient())
            page = launch(studio, **{"port": free_port(), "browser": False} | options)
            stack.callback(page.close)
            return page

        yield serve


def test_a_page_for_this_machine_needs_no_password_and_listens_here_only(serve):
    page = serve()
    assert (page.password, page.share_url) == ("", "")
    assert page.url.startswith("http://127.0.0.1:")
    assert page.blocks.server_name == "127.0.0.1"
    answer = httpx.get(page.url)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_page_for_the_network_has_a_password_even_when_none_is_given(serve):
    page = serve(listen=True)
    assert len(page.password) >= 12
    with httpx.Client(base_url=f"http://127.0.0.1:{page.blocks.server_port}") as browser:
        assert browser.get("/config").status_code == 401
        assert browser.post("/gradio_api/queue/join", json={}).status_code == 401
        assert browser.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
        assert browser.post("/login", data={"username": USER, "password": "guess"}).status_code == 400
        assert browser.post("/login", data={"username": USER, "password": page.password}).status_code == 200
        assert browser.get("/config").status_code == 200


def test_a_given_password_is_used(serve):
    assert serve(password="open sesame", listen=True).password == "open sesame"


def test_no_public_link_is_a_sentence_and_the_studio_goes_on(serve, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")  # nothing is there
    said = []
    page = serve(share=True, report=lambda message, fraction: said.append(message))
    assert page.share_url == ""
    assert "No public link could be made" in said[0]
    assert page.password
    assert httpx.get(page.url).status_code == 200


def test_a_taken_port_is_said(serve):
    taken = serve().blocks.server_port
    with pytest.raises(SettingsError, match=f"Port {taken} is taken"):
        serve(port=taken)


def test_no_action_of_the_page_is_an_open_endpoint(serve):
    page = serve()
    assert httpx.get(f"{page.url}gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_serving_and_drawing_reach_for_nothing_beyond_this_machine(serve):
    reached: list[str] = []
    listening = True

    def watch(event: str, arguments: tuple) -> None:  # an audit hook stays for good; it falls silent instead
        if listening and event in ("socket.connect", "socket.getaddrinfo"):
            reached.append(str(arguments[1] if event == "socket.connect" else arguments[0]))

    sys.addaudithook(watch)
    page = serve()
    httpx.get(page.url)
    job = page.jobs.submit(ImageRequest("a sea", steps=2))
    assert eventually(lambda: job.finished)
    listening = False
    assert job.state == "done"
    assert reached
    assert [place for place in reached if "127.0.0.1" not in place and "localhost" not in place] == []


def test_closing_frees_the_port(serve):
    page = serve()
    page.close()
    with socket.socket() as again:
        again.bind(("127.0.0.1", page.blocks.server_port))

"""Checkpoints by Hub id, against a Hub of our own: what is fetched, resumed, kept, and said."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]
COMMIT = "1" * 40
# Resolves argv[1] as the studio does, and prints what the artist would read.
SCRIPT = """
import sys
from studio.checkpoint import resolve
from studio.errors import CheckpointError
try:
    checkpoint = resolve(sys.argv[1], lambda message, fraction: print("report", message, fraction))
    print("resolved", checkpoint.name, checkpoint.family, checkpoint.source)
except CheckpointError as error:
    print("refused", error)
"""


class Hub(ThreadingHTTPServer):
    """The part of huggingface.co that a download needs, over one folder."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.status = 200
        self.error_code = ""
        self.cut_after: int | None = None
        self.sent: list[tuple[str, int]] = []  # file, first byte

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        if self.server.status != 200:
            self.reply(self.server.status, b"{}", {"X-Error-Code": self.server.error_code}, body)
        elif self.path.startswith("/api/models/"):
            files = [path for path in self.server.folder.rglob("*") if path.is_file()]
            names = [
                {"rfilename": path.relative_to(self.server.folder).as_posix(), "size": path.stat().st_size}
                for path in files
            ]
            content = {"id": "someone/tiny", "sha": COMMIT, "siblings": names}
            self.reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)
        else:
            self.send_file(self.path.split(f"/resolve/{COMMIT}/")[-1].split("/resolve/main/")[-1], body)

    def send_file(self, name: str, body: bool) -> None:
        file = self.server.folder / name
        if not file.is_file():
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        if body:
            self.server.sent.append((name, first))
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self.reply(206 if first else 200, content[first:], headers, body)

    def reply(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            cut = self.server.cut_after
            if cut is not None and len(content) > cut:
                self.wfile.write(content[:cut])
                self.close_connection = True
                self.server.status = 500  # gone: else the client would go on by itself
            else:
                self.wfile.write(content)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in both precisions, with pickles and a safety checker beside it, as many are."""
    folder = tmp_path_factory.mktemp("hub")
    pipeline = tiny.pipeline("sd1")
    pipeline.save_pretrained(folder)
    pipeline.save_pretrained(folder, variant="fp16")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"not needed")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"a pickle")
    return folder


@pytest.fixture
def hub(content: Path) -> Iterator[Hub]:
    server = Hub(content)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def resolve_in(tmp_path: Path) -> Callable[..., str]:
    """Runs SCRIPT in a process of its own: the Hub's client reads its settings when it is imported."""

    def run(model: str, endpoint: str, offline: bool = False) -> str:
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        settings["HF_HUB_OFFLINE"] = "1" if offline else "0"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, model],
            cwd=ROOT,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    return run


def test_a_hub_id_is_fetched_once_and_then_needs_no_network(hub: Hub, resolve_in: Callable[..., str]) -> None:
    first = resolve_in("someone/tiny", hub.url)
    assert "resolved tiny sd1 someone/tiny" in first
    assert "report Downloading someone/tiny" in first
    names = {name for name, _ in hub.sent}
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert not any(name.endswith((".bin", ".ckpt")) or name.startswith("safety_checker") for name in names)
    assert "unet/diffusion_pytorch_model.safetensors" not in names

    hub.sent.clear()
    assert "resolved tiny" in resolve_in("someone/tiny", hub.url)
    assert not hub.sent
    assert "resolved tiny" in resolve_in("someone/tiny", "http://127.0.0.1:9", offline=True)


def test_a_cut_download_goes_on_where_it_stopped(hub: Hub, resolve_in: Callable[..., str]) -> None:
    hub.cut_after = 12_000_000  # more than the text encoder, less than the UNet
    message = resolve_in("someone/tiny", hub.url)
    assert "refused" in message
    assert "What was downloaded so far is kept." in message
    hub.cut_after, hub.status = None, 200
    hub.sent.clear()
    assert "resolved tiny" in resolve_in("someone/tiny", hub.url)
    began = dict(hub.sent)
    assert "text_encoder/model.fp16.safetensors" not in began
    assert began["unet/diffusion_pytorch_model.fp16.safetensors"] >= 10_000_000
    assert began["vae/diffusion_pytorch_model.fp16.safetensors"] == 0


@pytest.mark.parametrize(
    ("status", "error_code", "words"),
    [
        (404, "RepoNotFound", "There is no public model someone/tiny"),
        (401, "RepoNotFound", "There is no public model someone/tiny"),
        (403, "GatedRepo", "Accept them at huggingface.co/someone/tiny"),
        (500, "", "could not be downloaded"),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub: Hub, resolve_in: Callable[..., str], status: int, error_code: str, words: str
) -> None:
    hub.status, hub.error_code = status, error_code
    assert words in resolve_in("someone/tiny", hub.url)


@pytest.mark.parametrize("offline", [False, True])
def test_no_network_is_said(resolve_in: Callable[..., str], offline: bool) -> None:
    message = resolve_in("someone/tiny", "http://127.0.0.1:9", offline)
    assert "someone/tiny is not on this machine yet and could not be downloaded" in message
    assert "Check the network" in message

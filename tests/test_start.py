"""The boot story on the real thing: a page comes up, and whatever ends the studio, nothing is left of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio import running
from studio.engines import cpu
from studio.engines.cpu import CpuChoice, Likeness
from studio.errors import SettingsError
from studio.image import open_image
from studio.server import leftovers
from studio.settings import CHECKOUT
from studio.start import free_port
from studio.terminal import Terminal
from tests.processes import kill

pytestmark = pytest.mark.timeout(300)
SECONDS = 120.0

# Where there is no network but the loopback.
WITHOUT_NETWORK = """
ip link set lo up 2>/dev/null || ifconfig lo up
exec "$0" -m studio.cli generate "a boat" --steps 2 -o "$1"
"""


def _as_from_a_terminal() -> None:
    # What started the tests may ignore signals (nohup, a shell's background), and children inherit that.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Started:
    """``python -m studio.cli`` with a data folder, a temporary folder and a cache that are not the user's."""

    def __init__(self, folder: Path, cache: Path, *arguments: str) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        places = {
            "STUDIO_CACHE": str(cache),
            "STUDIO_DATA": str(folder / "data"),
            "TMPDIR": str(self.temporary),
        }
        self.environment = os.environ | places | {"STUDIO_ENGINE": "onnxruntime"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "studio.cli", *arguments],
            cwd=CHECKOUT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_as_from_a_terminal,
        )

    def page(self, cache: Path) -> running.Instance:
        """Wait for its page and fetch it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()
            for instance in running.running(cache):
                if instance.pid == self.process.pid and instance.url:
                    with urllib.request.urlopen(instance.url, timeout=SECONDS) as answer:
                        assert b"Triton Studio" in answer.read()
                    return instance
            time.sleep(0.1)
        raise AssertionError("no page came up")

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; returns the exit status and what was said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def remains(self) -> list[str]:
        """Folders, shared memory and processes of its server."""
        folders = [path.name for path in self.temporary.glob(f"{leftovers.PREFIX}*")]
        return folders + [str(pid) for pid in _marked(self.temporary)]


def _marked(temporary: Path) -> Iterator[int]:
    """The processes that run in this temporary folder."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={temporary}".encode() in file.read_bytes().split(b"\0"):
                yield int(file.parent.name)
        except OSError:
            continue


def gone(started: Started) -> bool:
    """Whether nothing remains, at the latest after a while."""
    deadline = time.monotonic() + 30
    while started.remains() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not started.remains()


@pytest.fixture
def cache(embedded_platform: None, exported: Path) -> Path:
    return exported.parents[1]


@pytest.mark.server
def test_one_studio_from_its_page_to_its_end(cache: Path, tmp_path: Path) -> None:
    first = Started(tmp_path, cache, "--no-browser")
    url = first.page(cache).url
    (folder,) = first.temporary.glob(f"{leftovers.PREFIX}*")
    assert list(leftovers.SHARED_MEMORY.glob(f"{folder.name}*"))
    # a second one says where the first is, and ends
    second = Started(tmp_path, cache, "--no-browser")
    _, said = second.process.communicate(timeout=SECONDS)
    assert second.process.returncode == 0
    assert f"already runs: {url}" in said
    # `generate` draws on the one that runs
    picture = tmp_path / "boat.png"
    drawn = Started(tmp_path, cache, "generate", "a boat", "--steps", "2", "--json", "-o", str(picture))
    answer, said = drawn.process.communicate(timeout=SECONDS)
    assert f"Using the studio at {url}" in said
    facts = json.loads(answer)
    assert facts["files"] == [str(picture)]
    assert facts["engine"] == "onnxruntime fp32"
    assert facts["stages"].keys() >= {"queue", "text_encode", "step", "decode", "transfer", "save"}
    assert open_image(picture).shape == (256, 256, 3)
    # also when its server has just died, to come back at another address
    kill(running.running(cache)[0].address, "denoiser")
    drawn = Started(tmp_path, cache, "generate", "a boat", "--steps", "2", "-o", str(picture))
    _, said = drawn.process.communicate(timeout=SECONDS)
    assert drawn.process.returncode == 0, said
    assert f"Using the studio at {url}" in said
    # and it ends without a trace
    status, said = first.end(signal.SIGTERM)
    assert status == 0
    assert "Stopping." in said
    assert gone(first)
    assert not list(leftovers.SHARED_MEMORY.glob(f"{folder.name}*"))
    assert running.running(cache) == []


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_however_it_ends(cache: Path, tmp_path: Path, number: signal.Signals) -> None:
    started = Started(tmp_path, cache, "--no-browser")
    started.page(cache)
    assert started.remains()
    started.end(number)
    assert gone(started)
    assert running.running(cache) == []


@pytest.mark.server
def test_interrupted_while_it_starts(cache: Path, tmp_path: Path) -> None:
    started = Started(tmp_path, cache, "--no-browser")
    deadline = time.monotonic() + SECONDS
    while not list(started.temporary.glob(f"{leftovers.PREFIX}*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    status, said = started.end(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in said
    assert gone(started)


@pytest.mark.server
def test_draws_with_the_network_unplugged(cache: Path, tmp_path: Path) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("this system lets nobody make a network of their own")
    places = {
        "STUDIO_CACHE": str(cache),
        "STUDIO_DATA": str(tmp_path / "data"),
        "STUDIO_ENGINE": "onnxruntime",
    }
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", WITHOUT_NETWORK, sys.executable, str(tmp_path / "boat.png")],
        cwd=CHECKOUT,
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "boat.png").exists()


def test_a_taken_port_is_replaced_and_said() -> None:
    stream = io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = free_port(port, Terminal(stream))
    assert found != port
    assert f"Port {port} is taken" in stream.getvalue()
    assert str(found) in stream.getvalue()


def test_a_studio_is_listed_while_it_lives(tmp_path: Path) -> None:
    with running.registered(tmp_path, serves="a b") as entry:
        (there,) = running.running(tmp_path)
        assert (there.pid, there.url, there.serves) == (os.getpid(), "", "a b")
        entry.tell(url="http://x/", address="unix:y", data_dir="z")
        assert [one.url for one in running.running(tmp_path)] == ["http://x/"]
        assert entry.elders() == []
    assert running.running(tmp_path) == []


def test_the_entry_of_a_killed_studio_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / running.FOLDER
    folder.mkdir()
    (folder / "1.json").write_text('{"pid": 1, "since": 0, "url": "http://gone/"}')
    (folder / "1.lock").touch()
    assert running.running(tmp_path) == []
    assert list(folder.glob("1.*")) == []


# Which engine a CPU gets


def choose(
    tmp_path: Path, wanted: str = "auto", flags: str = "amx_bf16", likeness: Likeness | None = None
) -> CpuChoice:
    return cpu.choose(
        wanted,
        tmp_path / "model",
        tmp_path,
        2,
        cpu_flags=frozenset(flags.split()),
        judge=lambda *_: likeness or Likeness(1.0),
    )


def test_bfloat16_only_where_the_cpu_has_it_and_pictures_stay_alike(tmp_path: Path) -> None:
    assert choose(tmp_path / "a").label == "openvino bf16"
    assert choose(tmp_path / "b", flags="avx2").label == "openvino fp32"
    far = choose(tmp_path / "c", likeness=Likeness(cpu.MAX_DIFFERENCE + 1))
    assert far.label == "openvino fp32"
    assert "5.0 of 255" in far.reason
    broken = choose(tmp_path / "d", likeness=Likeness(0.0, "it ended with status -4"))
    assert broken.label == "openvino fp32"
    assert "status -4" in broken.reason


def test_an_engine_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    assert choose(tmp_path, "onnxruntime").label == "onnxruntime fp32"
    assert choose(tmp_path, "openvino", flags="avx2").label == "openvino fp32"
    without = cpu.choose("auto", tmp_path, tmp_path, 1, version_of=lambda _: "")
    assert without.label == "onnxruntime fp32"


def test_the_verdict_is_remembered(tmp_path: Path) -> None:
    asked: list[int] = []

    def judge(*_: object) -> Likeness:
        asked.append(1)
        return Likeness(2.0)

    for _ in range(2):
        choice = cpu.choose(
            "auto", tmp_path / "m", tmp_path, 2, cpu_flags=frozenset({"amx_bf16"}), judge=judge
        )
        assert "2.0 of 255" in choice.reason
    assert asked == [1]


def test_every_component_can_fall_back_on_onnx_runtime(tmp_path: Path) -> None:
    chosen = cpu.engines(choose(tmp_path))
    assert {name: [one.label for one in engines] for name, engines in chosen.items()} == {
        "text_encoder": ["onnxruntime fp32"],
        "vae_encoder": ["openvino bf16", "onnxruntime fp32"],
        "denoiser": ["openvino bf16", "onnxruntime fp32"],
        "vae_decoder": ["openvino bf16", "onnxruntime fp32"],
    }
    in_float32 = cpu.engines(choose(tmp_path, flags="avx2"))
    assert [one.label for one in in_float32["denoiser"]] == ["openvino fp32", "onnxruntime fp32"]
    assert [one.label for one in in_float32["vae_decoder"]] == ["onnxruntime fp32"]


def test_the_trial_tells_how_it_failed(tmp_path: Path) -> None:
    likeness = cpu.try_picture(tmp_path / "nowhere", 1, lambda *_: None)
    assert not likeness.passes
    assert "model.json" in likeness.failure


def test_the_trial_draws_both_pictures(exported: Path) -> None:
    if not cpu.flags().intersection(cpu.BF16_FLAGS):
        pytest.skip("this CPU has no bfloat16")
    likeness = cpu.try_picture(exported, 2, lambda *_: None)
    assert not likeness.failure
    assert 0 < likeness.difference < 64


def test_a_flavour_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not installed"):
        cpu.choose("openvino", tmp_path, tmp_path, 1, version_of=lambda _: "")

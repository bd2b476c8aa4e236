"""Runs Python inside the image that serves, so that the engines it builds fit its TensorRT.

    python -m studio.server.container.python --image ID --cache FOLDER [--gpu UUID] -- PYTHON'S ARGUMENTS

Standard input, output and error and the exit status are those of the Python inside. Signals are passed on:
SIGTSTP pauses it, SIGCONT lets it go on, SIGTERM ends it. It ends with standard input too, and so also when
this process is killed; one that was killed while it paused is removed by the studio's next start. Paths in
the cache folder are translated.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import docker
from docker.errors import DockerException
from docker.types import DeviceRequest
from docker.utils.socket import STDOUT, frames_iter

from studio.errors import DockerError
from studio.server.container import engine, leases
from studio.server.container.blueprint import INSIDE
from studio.server.container.refusals import explain

CODE = Path(__file__).parents[3]  # studio/ and triton_models/
CODE_INSIDE = INSIDE / "code"
CACHE_INSIDE = INSIDE / "cache"
CHUNK_BYTES = 4096


def main(arguments: Sequence[str]) -> int:
    """Run Python inside; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--gpu", default="")
    parser.add_argument("python", nargs="+")
    asked = parser.parse_args(arguments)
    command = ["python3", *(_inside(one, asked.cache) for one in asked.python)]
    try:
        client = engine.connect()
        with contextlib.closing(client):
            return _run(client, asked.image, command, asked.cache, asked.gpu)
    except (DockerException, OSError) as error:
        sys.stderr.write(f"{explain(error)}\n")
    except DockerError as error:
        sys.stderr.write(f"{error}\n")
    return 1


def _run(client: docker.DockerClient, image_id: str, command: list[str], cache: Path, gpu: str) -> int:
    lease = leases.take(cache, "python")
    try:
        return _run_leased(client, image_id, command, cache, gpu, lease)
    finally:
        lease.end(gone=True)


def _run_leased(
    client: docker.DockerClient, image_id: str, command: list[str], cache: Path, gpu: str, lease: leases.Lease
) -> int:
    api = client.api
    host = api.create_host_config(
        binds={
            str(CODE): {"bind": str(CODE_INSIDE), "mode": "ro"},
            str(cache): {"bind": str(CACHE_INSIDE), "mode": "rw"},
        },
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        device_requests=[DeviceRequest(device_ids=[gpu], capabilities=[["gpu"]])] if gpu else None,
        init=True,
        auto_remove=True,
    )
    # Attached, not detached: then the engine closes its standard input when this process goes away.
    made = api.create_container(
        image_id,
        command,
        entrypoint=[],
        user=_this_user(),  # what it builds goes into this user's cache
        working_dir=str(CODE_INSIDE),
        environment={"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
        name=lease.container,
        labels=leases.labels(str(CODE), cache),
        stdin_open=True,
        host_config=host,
    )
    with ThreadPoolExecutor(1) as waiting:
        # Asked for before the start: a container that removes itself cannot be asked afterwards.
        ended = waiting.submit(api.wait, made, condition="removed")
        try:
            attached = api.attach_socket(made, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            api.start(made)
        except BaseException:
            api.remove_container(made, force=True)
            raise
        _pass_signals_on(api, made)
        threading.Thread(target=_feed, args=(attached,), daemon=True).start()
        for stream, data in frames_iter(attached, tty=False):
            out = sys.stdout if stream == STDOUT else sys.stderr
            out.buffer.write(data)
            out.flush()
        return int(ended.result()["StatusCode"])


def _pass_signals_on(api: docker.APIClient, container: Any) -> None:
    meanings = {
        "SIGTSTP": api.pause,
        "SIGCONT": api.unpause,
        "SIGTERM": functools.partial(api.remove_container, force=True),
    }
    for name, act in meanings.items():
        if hasattr(signal, name):  # Windows has the last alone

            def obey(*_: object, act: Callable[[Any], None] = act) -> None:
                with contextlib.suppress(DockerException, OSError):  # it may be paused, or gone, already
                    act(container)

            signal.signal(getattr(signal, name), obey)


def _this_user() -> str:
    return f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else ""


def _feed(attached: Any) -> None:
    """Pass standard input on, its end included."""
    raw: socket.socket = getattr(attached, "_sock", attached)
    with contextlib.suppress(OSError):
        while data := os.read(sys.stdin.fileno(), CHUNK_BYTES):
            raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)


def _inside(argument: str, cache: Path) -> str:
    """The argument with a path in the cache folder as it is inside, also after an option's ``=``."""
    whole = Path(argument).is_absolute()
    option, equals, value = ("", "", argument) if whole else argument.partition("=")
    path = Path(value)
    if not path.is_absolute() or not path.is_relative_to(cache):
        return argument
    return f"{option}{equals}{CACHE_INSIDE / PurePosixPath(path.relative_to(cache).as_posix())}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

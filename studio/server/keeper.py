"""Runs a Triton server as one: started together, gone together, nothing left behind.

    python -I -S keeper.py FOLDER COMMAND…

It stops the server and removes FOLDER and the server's shared memory when its standard input ends (the
studio stopped, or was killed), when it gets SIGTERM, or when the server or one of its models' processes
dies. It is a process of its own so that this holds even where the studio is ended by `kill -9`. Standard
library only, and nothing of the studio's: a container runs the same file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

LOOK_SECONDS = 1.0  # between looks for new models
REAP_SECONDS = 0.2
GRACE_SECONDS = 5.0  # for models to finish what they do and save what they keep
SHARED_MEMORY = Path("/dev/shm")
STUB = "triton_python_backend_stub"  # runs one instance of a model

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run the command until one of the reasons to stop, then clean up; returns its exit status."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # models' processes that outlive the server become ours to end
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    asked_to_stop, on_term = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(on_term, b"."))
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    try:
        if _watch(server, asked_to_stop):
            _stop(server)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        _reap()
        for segment in SHARED_MEMORY.glob(f"{folder.name}*"):
            segment.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    return server.returncode if server.returncode is not None else -signal.SIGKILL


def _watch(server: subprocess.Popen[bytes], asked_to_stop: int) -> bool:
    """Return True when asked to stop, False when the server or a model's process died."""
    stdin, ended = sys.stdin.fileno(), os.pidfd_open(server.pid)
    models: dict[int, tuple[int, str]] = {}  # descriptor → process and model
    while True:
        ready, _, _ = select.select([stdin, asked_to_stop, ended, *models], [], [], LOOK_SECONDS)
        if ended in ready:
            _say(f"The server ended with status {server.wait()}.")
            return False
        if stdin in ready or asked_to_stop in ready:
            return True
        for gone in ready:
            pid, model = models.pop(gone)
            os.close(gone)
            time.sleep(REAP_SECONDS)  # a process that Triton itself ended, it waits for: nothing stays of it
            if status := _exit_status(pid):
                _say(f"The process of the model {model} died ({status}).")
                return False
        known = {pid for pid, _ in models.values()}
        for pid in _children(server.pid) - known:
            if _stat(pid).name == STUB[:15]:
                with contextlib.suppress(OSError):
                    models[os.pidfd_open(pid)] = pid, _model_of(pid)


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(GRACE_SECONDS)


def _reap() -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
        except ChildProcessError:
            return


class _Stat(NamedTuple):
    name: str  # at most 15 letters
    state: str
    parent: int
    status: int


def _stat(pid: int) -> _Stat:
    """The parts of /proc/PID/stat that matter here; empty where there is no such process any more."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except OSError:
        return _Stat("", "", 0, 0)
    fields = after.split()  # from the third of proc(5) on
    return _Stat(before.partition("(")[2], fields[0], int(fields[1]), int(fields[49]))


def _children(parent: int) -> set[int]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid for pid in pids if _stat(pid).parent == parent}


def _exit_status(pid: int) -> str:
    """How a process that nobody has waited for ended; empty while it runs, or where it ended well."""
    _, state, _, status = _stat(pid)
    if state not in ("Z", "X") or status == 0:
        return ""
    return f"signal {status & 0x7F}" if status & 0x7F else f"exit status {status >> 8}"


def _model_of(pid: int) -> str:
    # triton_python_backend_stub <repository>/<model>/<version>/model.py …
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1].split("/")[-3]
    return "?"


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"keeper: {line}\n".encode())


if __name__ == "__main__":
    sys.exit(main())

"""Makes ``.venv`` and mends it, telling how far it is."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from ast import literal_eval
from typing import IO, Any, Dict, List, Optional, Sequence, Tuple

from studio.venv.places import CONSTRAINTS, EMBEDDED, PYTHON, ROOT, STAMP, UNFINISHED, VENV, VERSIONS, WINDOWS
from studio.venv.programs import find_python, find_uv, output
from studio.venv.state import contents, pins, read_stamp, requirements

COUNT_SECONDS = 5
STARTED = time.time()


class LauncherError(Exception):
    """What went wrong and what to do, for a person to read."""


def install(found: str, extras: Sequence[str], lock: IO[str]) -> None:
    """Make ``.venv``, or mend what ``state()`` found wrong with it. Raises LauncherError."""
    stamp = read_stamp()
    extras = sorted(set(extras) | set(stamp["extras"] if stamp else ()))
    if found == "missing":
        _say("First run: making .venv and installing the studio's packages.")
    elif found == "broken":
        _say("The packages in .venv were not installed to the end, or Python is gone: making it again.")
    elif found == "damaged":
        _say("Packages in .venv are damaged: installing them again.")
    else:
        _say("Bringing the packages in .venv up to date.")
    uv = find_uv()
    if found in ("missing", "broken"):
        _make_venv(uv, lock)
    mark_unfinished()
    if os.path.exists(STAMP):
        os.remove(STAMP)
    _install_packages(uv, requirements(extras), found == "damaged", lock)
    with open(STAMP, "w") as file:
        json.dump({"pins": pins(extras), "extras": extras, "contents": contents()}, file)
    os.remove(UNFINISHED)
    _say("Installed. The next start takes seconds.")


def _make_venv(uv: Optional[str], lock: IO[str]) -> None:
    python = find_python()
    if not python and not uv:
        how = "uv, which brings its own"
        if EMBEDDED:
            how = "`sudo apt install python3.11-venv libpython3.11` (Debian), or " + how
        raise LauncherError("The studio needs Python 3.11 or 3.12 and finds none here; install it: %s." % how)
    try:
        if os.path.lexists(VENV):
            shutil.rmtree(VENV)
        os.mkdir(VENV)
        mark_unfinished()
    except OSError as error:
        raise LauncherError("%s cannot be replaced: %s. Delete it by hand." % (VENV, error)) from None
    _say("Python: %s" % (python or VERSIONS[0] + ", brought by uv"))
    if uv:
        source = ["--python", python] if python else ["--managed-python", "--python", VERSIONS[0]]
        _run([uv, "venv", "--allow-existing", "--no-project", *source, VENV], lock)
    elif python:
        _run([python, "-m", "venv", VENV], lock)


def _install_packages(uv: Optional[str], wanted: Sequence[str], again: bool, lock: IO[str]) -> None:
    common = ["--constraint", CONSTRAINTS] + (
        [] if not again else ["--reinstall" if uv else "--force-reinstall"]
    )
    if not uv:
        quiet = ["--no-input", "--no-compile", "--progress-bar", "off", "--disable-pip-version-check"]
        _run([PYTHON, "-m", "pip", "install", *quiet, *common, *wanted], lock)
        return
    sources = _pip_sources()
    command = [uv, "pip", "install", "--no-progress", "--python", PYTHON, *common]
    if EMBEDDED and not sources:
        # PyTorch only exports here, on the CPU: without its CUDA libraries it is gigabytes smaller.
        try:
            _run([*command, "--torch-backend", "cpu", *wanted], lock)
            return
        except LauncherError:
            _say("PyTorch's own index does not answer; taking the larger PyTorch with CUDA.")
    _run([*command, *sources, *wanted], lock)


def _pip_sources() -> List[str]:
    """What pip is configured with, as uv's options: uv does not read pip's configuration."""
    python = find_python()
    options = {"find-links": "--find-links", "index-url": "--default-index", "extra-index-url": "--index"}
    found = []  # type: List[Tuple[str, str]]
    for line in output([python, "-m", "pip", "config", "list"]).splitlines() if python else ():
        key, _, value = line.partition("=")
        name = key.split(".")[-1]
        for source in literal_eval(value).split() if name in options else ():
            if (options[name], source) not in found:
                found.append((options[name], source))
    if any(option == "--index" for option, _ in found):
        found.append(("--index-strategy", "unsafe-best-match"))  # pip's own way with several indexes
    return [word for pair in found for word in pair]


def _run(command: Sequence[str], lock: IO[str]) -> None:
    """Run an installer and tell what it does. Raises LauncherError with its last words."""
    # The installer holds the lock too: should this process be killed, the next one waits for it.
    options = {} if WINDOWS else {"pass_fds": (lock.fileno(),)}  # type: Dict[str, Any]
    options.update(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process = subprocess.Popen(command, cwd=ROOT, **options)
    done = threading.Event()
    threading.Thread(target=_count, args=(done,), daemon=True).start()
    lines = []  # type: List[str]
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.decode("utf-8", "replace").rstrip())
            _tell(lines[-1])
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        done.set()
    if status:
        hint = "The packages could not be installed (above is why); the next start tries again."
        raise LauncherError("\n".join([*lines[-15:], hint]))


def _tell(line: str) -> None:
    """A line of pip's or uv's output, shortened to the package."""
    match = re.match(r"\s*(Downloading|Using cached|Resolved|Installing|Processing)\b(.*)", line)
    if match and ".metadata" not in line:
        what = re.sub(r"-(cp|py)\d\S*|file://", "", match.group(2)).strip()
        _say("%s %s" % (match.group(1), what if len(what) < 90 else "%d packages" % (what.count(",") + 1)))


def _count(done: threading.Event) -> None:
    """Say now and then how many packages are in place: unpacking is silent otherwise."""
    before = None  # type: Optional[int]
    while not done.wait(COUNT_SECONDS):
        count = sum(name.endswith(".dist-info") for name in contents())
        if before is not None and count != before:
            _say("%d packages in place" % count)
        before = count


def _say(text: str) -> None:
    sys.stderr.write("%6.1f s  %s\n" % (time.time() - STARTED, text))
    sys.stderr.flush()


def mark_unfinished() -> None:
    """Have the next start install the packages again."""
    with open(UNFINISHED, "w"):
        pass


class Lock:
    """Held by whoever makes ``.venv``; a second launcher waits for the first."""

    def __enter__(self) -> IO[str]:
        try:
            self._file = open(VENV + ".lock", "w")
        except OSError as error:
            raise LauncherError("%s cannot be written: %s." % (ROOT, error.strerror)) from None
        if not self._take():
            _say("Another launcher is making .venv; waiting for it.")
            while not self._take():
                time.sleep(0.5)
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _take(self) -> bool:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

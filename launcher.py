"""Start the studio: ``python launcher.py``.

Any Python 3 may run this file. On the first run it makes ``.venv`` with the pinned packages, on later
ones it looks whether that is still whole, and then it goes on inside it with ``studio.cli``.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from ast import literal_eval
from contextlib import contextmanager

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "studio.json")  # written last: what was installed
UNFINISHED = os.path.join(VENV, "unfinished")  # there while packages are being written
WINDOWS = os.name == "nt"
VENV_PYTHON = os.path.join(VENV, *(("Scripts", "python.exe") if WINDOWS else ("bin", "python")))
VERSIONS = ("3.11", "3.12")  # numpy 1 and Triton's Python stubs end with 3.12
EMBEDDED = sys.platform == "linux" and platform.machine() == "x86_64"  # where Triton comes as a wheel
EXTRAS = ("test", "tensorrt", "tensorrt-rtx")
STARTED = time.time()

PROBE = """
import os, sys, sysconfig, venv, ensurepip
library = os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
print("%d.%d" % sys.version_info[:2], int(library.endswith(".so.1.0") and os.path.exists(library)))
"""


class LauncherError(Exception):
    """What went wrong and what to do, for a person to read."""


def main():
    extras = _extras(sys.argv[1:])
    inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)
    try:
        if _state(extras) != "ready":
            with _alone():
                state = _state(extras)  # another launcher may have made it meanwhile
                if state != "ready":
                    _install(state, extras)
            inside = False  # the packages were exchanged under this interpreter
    except LauncherError as error:
        sys.exit("%s" % error)
    except KeyboardInterrupt:
        sys.exit("\nStopped. The next start goes on from here.")
    return _studio() if inside else _enter()


def _extras(arguments):
    """The optional packages that a command needs: ``test`` its own, ``install NAME`` those of NAME."""
    if arguments[:1] == ["install"]:
        return [name for name in arguments[1:] if name in EXTRAS]
    return ["test"] if arguments[:1] == ["test"] else []


def _enter():
    """Go on inside ``.venv``: never returns."""
    command = [VENV_PYTHON, os.path.join(ROOT, "launcher.py")] + sys.argv[1:]
    for foreign in ("PYTHONPATH", "PYTHONHOME"):  # another Python's packages would shadow ours
        os.environ.pop(foreign, None)
    if not WINDOWS:
        os.execv(VENV_PYTHON, command)
    child = subprocess.Popen(command)
    while True:
        try:
            sys.exit(child.wait())
        except KeyboardInterrupt:  # the studio gets it too, and is stopping
            continue


def _studio():
    try:
        from studio.cli import main as cli
    except ImportError as error:
        if not error.name or error.name.split(".")[0] in ("studio", "triton_models"):
            raise
        os.remove(STAMP)
        with open(UNFINISHED, "w"):
            pass
        sys.exit("The package %s is damaged. Start again: the studio mends it then." % error.name)
    return cli(sys.argv[1:])


# What is there


def _state(extras):
    """``ready``, or what ``.venv`` needs: ``missing``, ``broken``, ``outdated`` (or made by hand)."""
    if not os.path.isdir(VENV):
        return "missing"
    stamp = _read_stamp()
    if not os.path.exists(VENV_PYTHON) or os.path.exists(UNFINISHED):
        return "broken"
    if stamp is None:
        return "outdated" if _probe(VENV_PYTHON)[0] in VERSIONS else "broken"
    if set(stamp["contents"]) - set(_contents()):
        return "broken"
    if stamp["pins"] != _pins(stamp["extras"]) or set(extras) - set(stamp["extras"]):
        return "outdated"
    return "ready"


def _read_stamp():
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
        return stamp if set(stamp) >= {"pins", "extras", "contents"} else None
    except (OSError, ValueError, TypeError):
        return None


def _contents():
    """The names in site-packages: a package that was removed or exchanged shows here."""
    library = os.path.join(VENV, "Lib" if WINDOWS else "lib")
    folders = [library] if WINDOWS else [os.path.join(library, "python" + version) for version in VERSIONS]
    return [name for folder in folders for name in _listdir(os.path.join(folder, "site-packages"))]


def _listdir(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def requirements(extras=()):
    """The pinned requirements of pyproject.toml, read without a TOML library: older Pythons have none."""
    with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as file:
        text = file.read()
    found = []
    for name in ["dependencies"] + sorted(extras):
        block = re.search(r"^%s = \[(.*?)\]\s*$" % re.escape(name), text, re.M | re.S)
        found += re.findall(r'"([^"]+)"', re.sub(r"#.*", "", block.group(1)))
    return found


def _pins(extras):
    with open(os.path.join(ROOT, "constraints.txt"), encoding="utf-8") as file:
        text = "\n".join(requirements(extras)) + file.read()
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# Making it


def _install(state, extras):
    stamp = _read_stamp()
    extras = sorted(set(extras) | set(stamp["extras"] if stamp else ()))
    _say({
        "missing": "First run: making .venv and installing the studio's packages.",
        "broken": "The packages in .venv are damaged or were not installed to the end: making it again.",
        "outdated": "Bringing the packages in .venv up to date.",
    }[state])
    uv = _find_uv()
    if state != "outdated":
        _make_venv(uv)
    with open(UNFINISHED, "w"):
        pass
    if os.path.exists(STAMP):
        os.remove(STAMP)
    _install_packages(uv, requirements(extras))
    with open(STAMP + ".new", "w") as file:
        json.dump({"pins": _pins(extras), "extras": extras, "contents": _contents()}, file)
    os.remove(UNFINISHED)
    os.replace(STAMP + ".new", STAMP)
    _say("Installed. The next start takes seconds.")


def _make_venv(uv):
    python = _find_python()  # before anything is removed
    if not python and not uv:
        raise LauncherError(_no_python())
    try:
        if os.path.lexists(VENV):
            shutil.rmtree(VENV)
    except OSError as error:
        raise LauncherError("%s cannot be replaced: %s. Close what uses it, or delete it by hand." % (VENV, error))
    if uv:
        source = ["--python", python] if python else ["--managed-python", "--python", VERSIONS[0]]
        command = [uv, "venv", "--no-project"] + source + [VENV]
    else:
        command = [python, "-m", "venv", VENV]
    _say("Python: %s" % (python or "%s, brought by uv" % VERSIONS[0]))
    _run(command, "The virtual environment could not be made.")


def _find_uv():
    home = os.path.expanduser("~")
    for uv in (shutil.which("uv"), os.path.join(home, ".local", "bin", "uv"), os.path.join(home, ".cargo", "bin", "uv")):
        if uv and os.path.exists(uv) and _output([uv, "--version"]).startswith("uv "):
            return uv
    return None


def _find_python():
    """A CPython 3.11, else 3.12, with its shared library where Triton's stub loads it; None without one."""
    fit = {}
    for python in _candidates():
        version, shared = _probe(python)
        if version in VERSIONS and (shared or not EMBEDDED):
            fit.setdefault(version, python)
            if version == VERSIONS[0]:
                break
    return next((fit[version] for version in VERSIONS if version in fit), None)


def _candidates():
    """Where a Python may be, the likeliest first; never one inside the ``.venv`` that is being made."""
    pyenv = os.path.join(os.environ.get("PYENV_ROOT", os.path.join(os.path.expanduser("~"), ".pyenv")), "versions")
    for version in VERSIONS:
        yield shutil.which("python" + version)
        for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
            yield os.path.join(folder, "python" + version)
        for name in _listdir(pyenv):
            if name.startswith(version):
                yield os.path.join(pyenv, name, "bin", "python")
        if WINDOWS:
            yield _output(["py", "-" + version, "-c", "import sys; print(sys.executable)"]) or None
    yield getattr(sys, "_base_executable", sys.executable)


def _probe(python):
    """Version and whether the shared library is there; an empty version for what does not run or lacks pip."""
    if not python or not os.path.exists(python):
        return "", False
    version, _, shared = _output([python, "-I", "-c", PROBE]).partition(" ")
    return version, shared == "1"


def _no_python():
    if EMBEDDED:
        how = "`sudo apt install python3.11-venv libpython3.11` on Debian, or uv, which brings its own"
    else:
        how = "it from python.org, or uv, which brings its own"
    return "The studio needs Python 3.11 or 3.12 and this machine has none it can use; install %s." % how


def _install_packages(uv, wanted):
    constraints = ["--constraint", os.path.join(ROOT, "constraints.txt")]
    failure = "The packages could not be installed. The next start tries again."
    if not uv:
        command = [VENV_PYTHON, "-m", "pip", "install", "--no-input", "--no-compile", "--progress-bar", "off"]
        _run(command + ["--disable-pip-version-check"] + constraints + wanted, failure)
        return
    sources = _pip_sources()
    command = [uv, "pip", "install", "--no-progress", "--python", VENV_PYTHON] + sources + constraints
    # PyTorch only exports here, on the CPU: without its CUDA libraries it is gigabytes smaller.
    if EMBEDDED and not sources and _succeeds(command + ["--torch-backend", "cpu"] + wanted):
        return
    _run(command + wanted, failure)


def _pip_sources():
    """What pip is configured with, as uv's options: uv does not read pip's configuration."""
    python = _find_python()
    options = {"find-links": "--find-links", "index-url": "--default-index", "extra-index-url": "--index"}
    found = []
    for line in _output([python, "-m", "pip", "config", "list"]).splitlines() if python else ():
        key, _, value = line.partition("=")
        name = key.split(".")[-1]
        if name in options:
            for source in literal_eval(value).split():
                if [options[name], source] not in found:
                    found.append([options[name], source])
    if any(option == "--index" for option, _ in found):
        found.append(["--index-strategy", "unsafe-best-match"])  # pip's own way with several indexes
    return [word for pair in found for word in pair]


# Running programs


def _succeeds(command):
    try:
        _run(command, "")
    except LauncherError:
        return False
    return True


def _run(command, failure):
    """Run an installer and tell what it does; LauncherError with its last words when it fails."""
    held = () if WINDOWS else (_alone.handle.fileno(),)  # an installer that outlives us keeps the lock
    options = {} if WINDOWS else {"pass_fds": held}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, **options
    )
    done = threading.Event()
    threading.Thread(target=_count, args=(done,), daemon=True).start()
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.decode("utf-8", "replace").rstrip())
            _tell(lines[-1])
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        done.set()
    if code:
        raise LauncherError("\n".join(lines[-15:] + [failure]))


def _tell(line):
    """One line of pip's or uv's output, shortened to the package."""
    match = re.match(r"\s*(Downloading|Downloaded|Using cached|Resolved|Installing|Collecting|Processing)\b(.*)", line)
    if not match or match.group(1) in ("Downloaded", "Collecting"):
        return
    what = re.sub(r"-(cp|py)\d\S*|\.metadata|file://", "", match.group(2)).strip()
    if ".metadata" not in line:
        _say("%s %s" % (match.group(1), what if len(what) < 90 else "%d packages" % (what.count(",") + 1)))


def _count(done):
    """Say every few seconds how many packages are in place: unpacking is silent otherwise."""
    before = count = sum(name.endswith(".dist-info") for name in _contents())
    while not done.wait(5):
        count = sum(name.endswith(".dist-info") for name in _contents())
        if count != before:
            _say("%d packages in place" % count)
        before = count


def _output(command):
    """What a program says, stripped; empty when it fails or is not there."""
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=60).decode("utf-8", "replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _say(text):
    sys.stderr.write("%6.1f s  %s\n" % (time.time() - STARTED, text))
    sys.stderr.flush()


@contextmanager
def _alone():
    """Hold the lock on ``.venv``; a second launcher waits here."""
    try:
        _alone.handle = open(VENV + ".lock", "w")
    except OSError as error:
        raise LauncherError("%s cannot be written: %s. Put the studio where you may write." % (ROOT, error.strerror))
    with _alone.handle:
        if not _lock(wait=False):
            _say("Another launcher is making .venv; waiting for it.")
            _lock(wait=True)
        yield


def _lock(wait):
    try:
        if WINDOWS:
            import msvcrt

            while True:
                try:
                    msvcrt.locking(_alone.handle.fileno(), msvcrt.LK_NBLCK, 1)
                    return True
                except OSError:
                    if not wait:
                        raise
                    time.sleep(1)
        else:
            import fcntl

            fcntl.flock(_alone.handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())

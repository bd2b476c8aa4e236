"""Start the studio: ``python launcher.py``.

Any Python 3 may run this file. The first run makes ``.venv`` with the pinned packages; later ones look
whether it is still whole. Then everything goes on inside it, with ``studio.cli``.
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

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "studio.json")  # written last: what was installed
UNFINISHED = os.path.join(VENV, "unfinished")  # there while packages are being written
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")  # the versions of what our requirements bring along
WINDOWS = os.name == "nt"
PYTHON = os.path.join(VENV, *(("Scripts", "python.exe") if WINDOWS else ("bin", "python")))
VERSIONS = ("3.11", "3.12")  # numpy 1 and Triton's Python stubs end with 3.12
EMBEDDED = sys.platform == "linux" and platform.machine() == "x86_64"  # where Triton comes as a wheel
EXTRAS = ("test", "tensorrt", "tensorrt-rtx")
COUNT_SECONDS = 5
STARTED = time.time()

# Version, program, and whether the library that Triton's stub loads is there; fails without pip or venv.
PROBE = """
import os, sys, sysconfig, venv, ensurepip
library = os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
shared = ".so" in library and os.path.exists(library)
print("%d.%d|%s|%s" % (sys.version_info[0], sys.version_info[1], sys.executable, "shared" if shared else ""))
"""


class LauncherError(Exception):
    """What went wrong and what to do, for a person to read."""


def main():
    extras = _extras(sys.argv[1:])
    inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)
    try:
        if _state(extras) != "ready":
            with _Lock() as lock:
                state = _state(extras)  # another launcher may have made it meanwhile
                if state != "ready":
                    _install(state, extras, lock)
            inside = False  # its packages were exchanged under this interpreter
    except LauncherError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nStopped. The next start goes on from here.")
    return _studio() if inside else _enter()


def _extras(arguments):
    """The optional packages that a command needs: ``test`` its own, ``install NAME`` those of NAME."""
    if arguments[:1] == ["install"]:
        return [name for name in arguments[1:] if name in EXTRAS]
    return ["test"] if arguments[:1] == ["test"] else []


def _enter():
    """Go on inside ``.venv``: does not return."""
    for foreign in ("PYTHONPATH", "PYTHONHOME"):  # another Python's packages would shadow ours
        os.environ.pop(foreign, None)
    command = [PYTHON, os.path.join(ROOT, "launcher.py"), *sys.argv[1:]]
    if not WINDOWS:
        os.execv(PYTHON, command)
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
        _touch(UNFINISHED)
        sys.exit("The package %s is damaged. Start again: that mends it." % error.name)
    return cli(sys.argv[1:])


# What is there


def _state(extras):
    """``ready``, or what is wrong with ``.venv``: ``missing``, ``broken``, ``damaged`` or ``outdated``."""
    if not os.path.lexists(VENV):
        return "missing"
    if os.path.exists(UNFINISHED) or not os.path.exists(PYTHON):
        return "broken"
    stamp = _stamp()
    if stamp is None:  # made by hand, perhaps
        return "outdated" if _probe(PYTHON)[0] in VERSIONS else "broken"
    lacking = set(stamp["contents"]) - set(_contents())
    if any(not name.endswith(".dist-info") for name in lacking):
        return "damaged"
    if lacking or stamp["pins"] != _pins(stamp["extras"]) or set(extras) - set(stamp["extras"]):
        return "outdated"
    return "ready"


def _stamp():
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
        return stamp if set(stamp) >= {"pins", "extras", "contents"} else None
    except (OSError, ValueError, TypeError):
        return None


def _contents():
    """The names in site-packages: a package that was removed or exchanged shows here."""
    if WINDOWS:
        return _listdir(os.path.join(VENV, "Lib", "site-packages"))
    folders = [os.path.join(VENV, "lib", "python" + version, "site-packages") for version in VERSIONS]
    return [name for folder in folders for name in _listdir(folder)]


def _listdir(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def requirements(extras=()):
    """The requirements in pyproject.toml, read without a TOML library: older Pythons have none."""
    with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as file:
        text = file.read()
    found = []
    for name in ["dependencies", *sorted(extras)]:
        block = re.search(r"^%s = \[(.*?)\]\s*$" % re.escape(name), text, re.M | re.S).group(1)
        found += re.findall(r'"([^"]+)"', re.sub(r"#.*", "", block))
    return found


def _pins(extras):
    with open(CONSTRAINTS, encoding="utf-8") as file:
        text = "\n".join(requirements(extras)) + file.read()
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# Making it


def _install(state, extras, lock):
    stamp = _stamp()
    extras = sorted(set(extras) | set(stamp["extras"] if stamp else ()))
    if state == "missing":
        _say("First run: making .venv and installing the studio's packages.")
    elif state == "broken":
        _say("The packages in .venv were not installed to the end, or Python is gone: making it again.")
    elif state == "damaged":
        _say("Packages in .venv are damaged: installing them again.")
    else:
        _say("Bringing the packages in .venv up to date.")
    uv = _find_uv()
    if state in ("missing", "broken"):
        _make_venv(uv, lock)
    _touch(UNFINISHED)
    if os.path.exists(STAMP):
        os.remove(STAMP)
    _install_packages(uv, requirements(extras), state == "damaged", lock)
    with open(STAMP, "w") as file:
        json.dump({"pins": _pins(extras), "extras": extras, "contents": _contents()}, file)
    os.remove(UNFINISHED)
    _say("Installed. The next start takes seconds.")


def _make_venv(uv, lock):
    python = _find_python()
    if not python and not uv:
        how = "uv, which brings its own"
        if EMBEDDED:
            how = "`sudo apt install python3.11-venv libpython3.11` (Debian), or " + how
        raise LauncherError("The studio needs Python 3.11 or 3.12 and finds none here; install it: %s." % how)
    try:
        if os.path.lexists(VENV):
            shutil.rmtree(VENV)
    except OSError as error:
        raise LauncherError("%s cannot be replaced: %s. Delete it by hand." % (VENV, error)) from None
    _say("Python: %s" % (python or VERSIONS[0] + ", brought by uv"))
    command = [python, "-m", "venv", VENV]
    if uv:
        source = ["--python", python] if python else ["--managed-python", "--python", VERSIONS[0]]
        command = [uv, "venv", "--no-project", *source, VENV]
    _run(command, lock)


def _install_packages(uv, wanted, again, lock):
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


def _pip_sources():
    """What pip is configured with, as uv's options: uv does not read pip's configuration."""
    python = _find_python()
    options = {"find-links": "--find-links", "index-url": "--default-index", "extra-index-url": "--index"}
    found = []
    for line in _output([python, "-m", "pip", "config", "list"]).splitlines() if python else ():
        key, _, value = line.partition("=")
        name = key.split(".")[-1]
        for source in literal_eval(value).split() if name in options else ():
            if (options[name], source) not in found:
                found.append((options[name], source))
    if any(option == "--index" for option, _ in found):
        found.append(("--index-strategy", "unsafe-best-match"))  # pip's own way with several indexes
    return [word for pair in found for word in pair]


# Finding programs


def _find_uv():
    home = os.path.expanduser("~")
    places = [os.path.join(home, folder, "bin", "uv") for folder in (".local", ".cargo")]
    for uv in [shutil.which("uv"), *places]:
        if uv and os.path.exists(uv) and _output([uv, "--version"]).startswith("uv "):
            return uv
    return None


def _find_python():
    """A CPython 3.11, else 3.12; None without one. For the embedded Triton it needs its shared library."""
    fit = {}
    for candidate in _candidates():
        version, program, shared = _probe(candidate)
        if version in VERSIONS and (shared or not EMBEDDED):
            fit.setdefault(version, program)
            if version == VERSIONS[0]:
                break
    return next((fit[version] for version in VERSIONS if version in fit), None)


def _candidates():
    """Where a Python may be, the likeliest first."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.join(os.path.expanduser("~"), ".pyenv"))
    yield getattr(sys, "_base_executable", sys.executable)
    for version in VERSIONS:
        yield shutil.which("python" + version)
        for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
            yield os.path.join(folder, "python" + version)
        for name in _listdir(os.path.join(pyenv, "versions")):
            if name.startswith(version + "."):
                yield os.path.join(pyenv, "versions", name, "bin", "python")
        if WINDOWS:
            yield _output(["py", "-" + version, "-c", "import sys; print(sys.executable)"])


def _probe(python):
    """Version, program and ``shared``, all empty for a Python that does not run or lacks pip."""
    if not python or not os.path.exists(python):
        return "", "", ""
    answer = _output([python, "-I", "-c", PROBE]).split("|")
    return tuple(answer) if len(answer) == 3 else ("", "", "")


# Running them


def _run(command, lock):
    """Run an installer and tell what it does. Raises LauncherError with its last words."""
    # The installer holds the lock too: should this process be killed, the next one waits for it.
    options = {} if WINDOWS else {"pass_fds": (lock.fileno(),)}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, cwd=ROOT, **pipes, **options)
    done = threading.Event()
    threading.Thread(target=_count, args=(done,), daemon=True).start()
    lines = []
    try:
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


def _tell(line):
    """A line of pip's or uv's output, shortened to the package."""
    match = re.match(r"\s*(Downloading|Using cached|Resolved|Installing|Processing)\b(.*)", line)
    if match and ".metadata" not in line:
        what = re.sub(r"-(cp|py)\d\S*|file://", "", match.group(2)).strip()
        _say("%s %s" % (match.group(1), what if len(what) < 90 else "%d packages" % (what.count(",") + 1)))


def _count(done):
    """Say now and then how many packages are in place: unpacking is silent otherwise."""
    before = None
    while not done.wait(COUNT_SECONDS):
        count = sum(name.endswith(".dist-info") for name in _contents())
        if before is not None and count != before:
            _say("%d packages in place" % count)
        before = count


def _output(command):
    """What a program says, stripped; empty when it fails or is not there."""
    try:
        said = subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=60)
        return said.decode("utf-8", "replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _say(text):
    sys.stderr.write("%6.1f s  %s\n" % (time.time() - STARTED, text))
    sys.stderr.flush()


def _touch(file):
    with open(file, "w"):
        pass


class _Lock:
    """Held by whoever makes ``.venv``; a second launcher waits for the first."""

    def __enter__(self):
        try:
            self._file = open(VENV + ".lock", "w")
        except OSError as error:
            raise LauncherError("%s cannot be written: %s." % (ROOT, error.strerror)) from None
        if not self._take():
            _say("Another launcher is making .venv; waiting for it.")
            while not self._take():
                time.sleep(0.5)
        return self._file

    def __exit__(self, *_):
        self._file.close()

    def _take(self):
        try:
            if WINDOWS:
                import msvcrt

                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())

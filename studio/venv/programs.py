"""The programs that make a virtual environment: uv, and the Pythons of this machine."""

import os
import shutil
import subprocess
import sys
from typing import Dict, Iterator, Optional, Sequence, Tuple

from studio.venv.places import EMBEDDED, VERSIONS, WINDOWS

# Version, program, and whether the library that Triton's stub loads is there; fails without pip or venv.
PROBE = """
import os, sys, sysconfig, venv, ensurepip
library = os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
shared = ".so" in library and os.path.exists(library)
print("%d.%d|%s|%s" % (sys.version_info[0], sys.version_info[1], sys.executable, "shared" if shared else ""))
"""


def find_uv() -> Optional[str]:
    """The program uv; None without one."""
    home = os.path.expanduser("~")
    places = [os.path.join(home, folder, "bin", "uv") for folder in (".local", ".cargo")]
    for uv in [shutil.which("uv"), *places]:
        if uv and os.path.exists(uv) and output([uv, "--version"]).startswith("uv "):
            return uv
    return None


def find_python() -> Optional[str]:
    """A CPython 3.11, else 3.12; None without one. For the embedded Triton it needs its shared library."""
    fit = {}  # type: Dict[str, str]
    for candidate in _candidates():
        version, program, shared = probe(candidate)
        if version in VERSIONS and (shared or not EMBEDDED):
            fit.setdefault(version, program)
            if version == VERSIONS[0]:
                break
    return next((fit[version] for version in VERSIONS if version in fit), None)


def _candidates() -> Iterator[Optional[str]]:
    """Where a Python may be, the likeliest first."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.join(os.path.expanduser("~"), ".pyenv"))
    yield getattr(sys, "_base_executable", sys.executable)
    for version in VERSIONS:
        yield shutil.which("python" + version)
        for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
            yield os.path.join(folder, "python" + version)
        versions = os.path.join(pyenv, "versions")
        for name in sorted(os.listdir(versions)) if os.path.isdir(versions) else ():
            if name.startswith(version + "."):
                yield os.path.join(versions, name, "bin", "python")
        if WINDOWS:
            yield output(["py", "-" + version, "-c", "import sys; print(sys.executable)"])


def probe(python: Optional[str]) -> Tuple[str, str, str]:
    """Version, program and ``shared``, all empty for a Python that does not run or lacks pip."""
    if not python or not os.path.exists(python):
        return "", "", ""
    answer = output([python, "-I", "-c", PROBE]).split("|")
    return (answer[0], answer[1], answer[2]) if len(answer) == 3 else ("", "", "")


def output(command: Sequence[str]) -> str:
    """What a program says, stripped; empty when it fails or is not there."""
    try:
        said = subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=60)
        return said.decode("utf-8", "replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""

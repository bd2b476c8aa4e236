"""Start the studio: ``python launcher.py``.

Any Python 3 may run this file. The first run makes ``.venv`` with the pinned packages; later ones look
whether it is still whole. Then everything goes on inside it, with ``studio.cli``.
"""

import os
import subprocess
import sys

from studio.venv.make import LauncherError, Lock, install, mark_unfinished
from studio.venv.places import EXTRAS, PYTHON, ROOT, VENV, WINDOWS
from studio.venv.state import state


def main():
    extras = _extras(sys.argv[1:])
    inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)
    try:
        if state(extras) != "ready":
            with Lock() as lock:
                found = state(extras)  # another launcher may have made it meanwhile
                if found != "ready":
                    install(found, extras, lock)
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
        mark_unfinished()
        sys.exit("The package %s is damaged. Start again: that mends it." % error.name)
    return cli(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

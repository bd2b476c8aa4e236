"""Where the packages lie, and for which Pythons and machines they are."""

import os
import platform
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "studio.json")  # written last: what was installed
UNFINISHED = os.path.join(VENV, "unfinished")  # there while packages are being written
CONSTRAINTS = os.path.join(ROOT, "constraints.txt")  # the versions of what our requirements bring along
WINDOWS = os.name == "nt"
PYTHON = os.path.join(VENV, *(("Scripts", "python.exe") if WINDOWS else ("bin", "python")))
VERSIONS = ("3.11", "3.12")  # numpy 1 and Triton's Python stubs end with 3.12
EMBEDDED = sys.platform == "linux" and platform.machine() == "x86_64"  # where Triton comes as a wheel
EXTRAS = ("test", "tensorrt", "tensorrt-rtx")

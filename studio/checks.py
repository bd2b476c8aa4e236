"""``test``: what the tests need and all of them: ruff, mypy and pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from studio.settings import CHECKOUT
from studio.terminal import Terminal

# What the tests of the page need: the browser draws text, so fonts come along.
SYSTEM_PACKAGES = ("chromium", "fonts-dejavu-core")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHECKS = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))


def run_all(pytest_arguments: Sequence[str], terminal: Terminal) -> int:
    """Run everything, pytest last; returns the worst exit status."""
    _have_browser(terminal)
    worst = 0
    for check in CHECKS:
        terminal.line(f"Running {' '.join(check)}")
        worst = max(worst, _run(check))
    if worst:
        terminal.line("ruff or mypy found something (above); the tests run all the same.")
    return _run(("pytest", *pytest_arguments)) or worst


def _run(module: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", *module], cwd=CHECKOUT, check=False).returncode


def _have_browser(terminal: Terminal) -> None:
    """Install Debian's Chromium where that is possible, else say what is missing."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        terminal.line("Installing Chromium for the tests of the page")
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *SYSTEM_PACKAGES]):
            words = ["apt-get", "-qq", *command]
            if subprocess.run(words, env=environment, stdout=sys.stderr, check=False).returncode:
                break
    if not any(shutil.which(name) for name in BROWSERS):
        terminal.line("Without Chromium the tests of the page are skipped: `sudo apt install chromium`.")

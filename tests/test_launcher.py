"""launcher.py in checkouts of its own: real virtual environments, with one tiny package for all the rest."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from studio.venv.places import EXTRAS
from studio.venv.places import ROOT as CHECKOUT
from studio.venv.state import requirements

ROOT = Path(CHECKOUT)
SECONDS = 120
pytestmark = pytest.mark.timeout(300)

# Stands for the studio: tells where it runs and what it was asked.
CLI = """
import json, os, sys
def main(arguments):
    import tiny
    facts = {"prefix": sys.prefix, "cwd": os.getcwd(), "arguments": arguments, "tiny": tiny.VERSION}
    print(json.dumps(facts))
    return 7
"""


def wheel(folder: Path, version: str) -> None:
    """A wheel of the package ``tiny``."""
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny/__init__.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)


class Checkout:
    """A checkout that needs one package, which lies in a folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.wheels = folder / "wheels"
        self.root = folder / "my stüdio ✿"
        self.venv = self.root / ".venv"
        self.wheels.mkdir()
        shutil.copytree(
            ROOT / "studio" / "venv",
            self.root / "studio" / "venv",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        wheel(self.wheels, "1.0")
        wheel(self.wheels, "2.0")
        shutil.copy(ROOT / "launcher.py", self.root)
        (self.root / "studio" / "__init__.py").touch()
        (self.root / "studio" / "cli.py").write_text(CLI)
        (self.root / "constraints.txt").touch()
        self.pin("1.0")

    def pin(self, version: str) -> None:
        text = f'dependencies = [\n    "tiny=={version}",\n]\n\n[project.optional-dependencies]\ntest = []\n'
        (self.root / "pyproject.toml").write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        # No index and no uv: pip, offline. The interpreter's own folder is where python3.11 is found.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
        environment = kept | {
            "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHONPATH": "/nowhere",
        }
        return subprocess.Popen(
            [sys.executable, str(self.root / "launcher.py"), *arguments],
            env=environment,
            cwd=self.wheels,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[dict[str, object], str]:
        """What the stand-in studio said, and what the launcher said."""
        process = self.start(*arguments)
        said, told = process.communicate(timeout=SECONDS)
        assert process.returncode == 7, told
        facts: dict[str, object] = json.loads(said)
        return facts, told


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout that was started once. Every test leaves it working, with tiny 1.0."""
    made = Checkout(tmp_path_factory.mktemp("installed"))
    made.run()
    return made


def test_first_start_installs_and_the_second_goes_straight_on(checkout: Checkout) -> None:
    facts, told = checkout.run("--port", "1")
    assert facts["prefix"] == str(checkout.venv)
    assert facts["arguments"] == ["--port", "1"]
    assert facts["cwd"] == str(checkout.wheels)  # so that `-o out.png` lands where the person is
    assert "First run" in told
    assert re.search(r"\d s  .*tiny", told)  # a package, with its time
    facts, told = checkout.run()
    assert facts["tiny"] == "1.0"
    assert told == ""


def test_new_pins_are_installed_over_the_old(installed: Checkout) -> None:
    installed.pin("2.0")
    facts, told = installed.run()
    assert facts["tiny"] == "2.0"
    assert "up to date" in told
    installed.pin("1.0")
    assert installed.run()[0]["tiny"] == "1.0"


def test_what_a_command_needs_is_added_and_kept(installed: Checkout) -> None:
    installed.run("test")
    assert json.loads((installed.venv / "studio.json").read_text())["extras"] == ["test"]
    _, told = installed.run()
    assert told == ""


@pytest.mark.parametrize("damage", ["package", "python", "unfinished", "stamp of another kind"])
def test_a_damaged_environment_is_made_again(installed: Checkout, damage: str) -> None:
    checkout = installed
    packages = next(checkout.venv.glob("lib/python*/site-packages"))
    if damage == "package":
        shutil.rmtree(packages / "tiny")
    elif damage == "python":
        (checkout.venv / "bin" / "python").unlink()
    elif damage == "unfinished":
        (checkout.venv / "unfinished").touch()
        (packages / "tiny" / "__init__.py").unlink()  # pip would take it for installed
    else:
        (checkout.venv / "studio.json").write_text("[]")
    facts, told = checkout.run()
    assert facts["tiny"] == "1.0"
    assert told != ""
    assert checkout.run()[1] == ""


def test_a_package_exchanged_by_hand_is_brought_back(installed: Checkout) -> None:
    command = [installed.venv / "bin" / "python", "-m", "pip", "install", "-q", "--no-index"]
    subprocess.run([*command, "--find-links", installed.wheels, "tiny==2.0"], check=True)
    mark = installed.venv / "running"
    mark.touch()
    facts, told = installed.run()
    assert facts["tiny"] == "1.0"
    assert "up to date" in told
    assert mark.exists()  # nothing was taken away from a studio that may be running


def test_an_environment_made_by_hand_is_adopted(checkout: Checkout) -> None:
    subprocess.run([sys.executable, "-m", "venv", checkout.venv], check=True)
    mark = checkout.venv / "mine"
    mark.touch()
    facts, _ = checkout.run()
    assert facts["tiny"] == "1.0"
    assert mark.exists()


def test_two_first_starts_at_once_both_arrive(checkout: Checkout) -> None:
    both = [checkout.start(), checkout.start()]
    told = [process.communicate(timeout=SECONDS)[1] for process in both]
    assert [process.returncode for process in both] == [7, 7]
    assert sum("First run" in one for one in told) == 1
    assert sum("waiting" in one for one in told) == 1


def test_killed_while_installing_is_mended_by_the_next_start(checkout: Checkout) -> None:
    first = checkout.start()
    while not (checkout.venv / "unfinished").exists():
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    facts, told = checkout.run()
    assert facts["tiny"] == "1.0"
    assert "not installed to the end" in told


def test_no_package_to_be_had_is_said_and_tried_again(checkout: Checkout) -> None:
    checkout.pin("3.0")
    process = checkout.start()
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "could not be installed" in told
    assert "Traceback" not in told
    checkout.pin("2.0")
    assert checkout.run()[0]["tiny"] == "2.0"


def test_without_a_fit_python_one_sentence_says_what_to_install(checkout: Checkout) -> None:
    places = checkout.root / "studio" / "venv" / "places.py"
    source = places.read_text()
    places.write_text(source.replace('("3.11", "3.12")', '("3.98", "3.99")'))
    process = checkout.start()
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert told.splitlines()[-1].startswith("The studio needs Python 3.11 or 3.12")
    assert "Traceback" not in told


def test_reads_the_same_requirements_as_a_toml_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert requirements() == project["dependencies"]
    assert set(EXTRAS) == set(project["optional-dependencies"])
    for extra, wanted in project["optional-dependencies"].items():
        assert requirements([extra]) == project["dependencies"] + wanted


def test_everything_is_pinned_and_the_constraints_agree() -> None:
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    for requirement in requirements(["test"]):
        name, version = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)(?:;.*)?", requirement).groups()  # type: ignore[union-attr]
        assert constraints.get(name, version) == version


def test_old_pythons_can_read_the_launcher() -> None:
    files = [ROOT / "launcher.py", ROOT / "studio" / "__init__.py", *(ROOT / "studio" / "venv").glob("*.py")]
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, 6))

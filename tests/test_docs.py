"""The documents say what is so: settings, files, links, version, commands."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import fields

import pytest

import studio
from studio.cli import parser
from studio.settings import CHECKOUT, Settings, option, variable

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "BENCHMARKS.md",
    "triton_models/README.md",
    "engine_cache/README.md",
    "assets/postcards/README.md",
    "tests/gpu/README.md",
)


def test_every_setting_stands_in_the_readme_as_it_is() -> None:
    rows = {cells[0]: cells for cells in _table("option")}
    for knob in fields(Settings):
        cells = rows.pop(f"`{option(knob)}`")
        shown = knob.metadata["shown"]
        assert cells[1] == f"`{variable(knob)}`"
        assert cells[3].startswith(knob.metadata["help"])
        assert all(f"`{choice}`" in cells[3] for choice in knob.metadata["choices"])
        if knob.name not in ("data_dir", "cache_dir"):
            default = str(int(shown)) if isinstance(shown, bool) else str(shown or "") if shown != 0 else "0"
            assert cells[2] == (f"`{default}`" if default not in ("", "()") else "")
    assert rows == {}, "settings that do not exist"


def _table(first: str) -> list[list[str]]:
    lines = README.split(f"| {first} |", 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest is not None
    assert studio.__version__ == project["version"] == newest[1]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    folder = (CHECKOUT / document).parent
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_map_shows_what_is_there() -> None:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    studio_part = text.split("studio/\n")[1].split("triton_models/")[0]
    named: set[str] = set()
    for line in studio_part.splitlines():
        named.update(re.findall(r"[\w.]+(?:\.py|/)", line[:34]))
    for name in named:
        assert (CHECKOUT / "studio" / name).exists(), name
    folders = {f"{path.name}/" for path in (CHECKOUT / "studio").iterdir() if (path / "__init__.py").exists()}
    assert folders <= named


def test_commands_in_the_readme_are_understood() -> None:
    commands = re.findall(r"^python launcher\.py ?(.*)$", README, re.M)
    assert commands[:2] == ["", "test"]  # the two that a newcomer needs
    for command in commands:
        words = re.findall(r'"[^"]*"|\S+', command)
        parser().parse_args([word.strip('"') for word in words])


def test_nobody_s_home_is_named() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    forbidden = re.compile(r"(?<![\w.])/(?:root|home/\w+)/")
    text_files = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".js", ".css", ".pbtxt")
    found = []
    for name in listed.stdout.splitlines():
        path = CHECKOUT / name
        if name.endswith(text_files) and path.exists() and path != CHECKOUT / "tests" / "test_docs.py":
            found += [f"{name}: {match[0]}" for match in forbidden.finditer(path.read_text(encoding="utf-8"))]
    assert found == []


def test_heavy_libraries_have_one_door() -> None:
    doors = {
        "gradio": ("studio/ui/",),
        "tritonclient": ("studio/client.py", "studio/server/container/native.py"),
        "docker": ("studio/server/container/",),
        "diffusers": ("studio/checkpoint/", "studio/engines/", "studio/bench/"),
        "torch": ("studio/checkpoint/", "studio/engines/", "studio/bench/"),
        "tensorrt": ("studio/engines/builder/", "triton_models/diffusion/runners/tensorrt"),
    }
    strays = []
    for path in (
        file for folder in ("studio", "triton_models") for file in (CHECKOUT / folder).rglob("*.py")
    ):
        name = path.relative_to(CHECKOUT).as_posix()
        for library, door in doors.items():
            imports = re.search(rf"^\s*(?:import|from) {library}\b", path.read_text(encoding="utf-8"), re.M)
            if imports and not name.startswith(door):
                strays.append(f"{name} imports {library}")
    assert strays == []


def test_the_models_import_nothing_of_the_studio() -> None:
    files = list((CHECKOUT / "triton_models").rglob("*.py"))
    studio_import = re.compile(r"^\s*(?:import|from) studio\b", re.M)
    importing = [file for file in files if studio_import.search(file.read_text(encoding="utf-8"))]
    assert files
    assert importing == []


def test_starting_imports_no_torch() -> None:
    code = "import sys, studio.start, studio.ui.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0

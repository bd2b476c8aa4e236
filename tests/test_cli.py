"""The command line: every option there, each refusal a sentence, no traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import fields as dataclass_fields
from pathlib import Path

import pytest

from studio.cli import main, parser
from studio.command_line import REQUEST_FIELDS
from studio.request import ImageRequest
from studio.settings import CHECKOUT, Settings, option
from studio.terminal import Terminal


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "studio.cli", *arguments]
    return subprocess.run(
        command,
        cwd=CHECKOUT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["", "generate", "doctor", "bench", "test", "install", "engines"])
def test_every_command_explains_itself(command: str) -> None:
    done = run(*command.split(), "--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 8


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch", "gradio", "tritonclient", "docker", "onnxruntime", "openvino", "diffusers"
    code = (
        f"import sys, studio.cli; studio.cli.parser(); sys.exit(sorted({set(heavy)} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_install_never_says_installed_when_it_is_not() -> None:
    done = run("--log-level", "info", "install", "tensorrt-rtx")
    assert done.returncode == 2
    assert "Nothing was installed" in done.stderr
    assert "python launcher.py install tensorrt-rtx" in done.stderr


def test_every_knob_is_an_option() -> None:
    text = parser().format_help()
    assert [knob.name for knob in dataclass_fields(Settings) if option(knob) not in text] == []


def test_every_field_of_a_request_is_an_option_of_generate() -> None:
    assert {"prompt", *REQUEST_FIELDS} == {field.name for field in dataclass_fields(ImageRequest)}
    words = (
        "--negative-prompt no --steps 3 --guidance-scale 2.5 --seed 9 --sampler Euler --width 64 --height 128"
    )
    more = "--num-images 2 --image in.png --strength 0.5 -o out.png --json"
    asked = parser().parse_args(["generate", "words", *words.split(), *more.split()])
    given = {name: getattr(asked, f"request_{name}") for name in REQUEST_FIELDS}
    assert given == {
        "negative_prompt": "no",
        "steps": 3,
        "guidance_scale": 2.5,
        "seed": 9,
        "sampler": "Euler",
        "width": 64,
        "height": 128,
        "num_images": 2,
        "image": Path("in.png"),
        "strength": 0.5,
    }


def test_options_before_the_command_count_too() -> None:
    before = parser().parse_args(["--model", "a", "doctor"])
    after = parser().parse_args(["doctor", "--model", "a"])
    assert before.model == after.model == "a"


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "said"),
    [
        (["doctor"], {"STUDIO_PROT": "1"}, 2, "Was STUDIO_PORT meant?"),
        (["--port", "99999"], {}, 2, "--port cannot be '99999'"),
        (["--gpu", "7"], {}, 2, "There is no GPU '7' here"),
        (["generate", "x", "--model", "/nowhere/at-all"], {}, 1, "/nowhere/at-all"),
        (["generate", "x", "--image", "/nowhere.png"], {}, 1, "/nowhere.png"),
        (["--engine", "tensorrt"], {}, 2, "tensorrt"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: list[str], environ: dict[str, str], status: int, said: str
) -> None:
    done = run(*arguments, **environ)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_is_well_here_and_says_what_it_will_use() -> None:
    done = run("doctor", "--json")
    facts = json.loads(done.stdout)
    assert done.returncode == 0
    assert facts["healthy"] is True
    told = {finding["subject"] for finding in facts["findings"]}
    assert told >= {"GPU", "Triton", "Checkpoint", "CPU engine", "Pictures", "Cache"}


def test_doctor_is_not_well_when_the_checkpoint_is_missing() -> None:
    done = run("doctor", "--model", "/nowhere/at-all")
    assert done.returncode == 1
    assert "✗ Checkpoint" in done.stdout


def test_the_log_has_what_the_terminal_spares(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "cache").write_text("not a folder")
    done = run("--no-browser", STUDIO_CACHE=str(tmp_path / "cache"), STUDIO_DATA=str(tmp_path / "data"))
    assert done.returncode == 1
    assert "STUDIO_CACHE" in done.stderr
    assert (tmp_path / "data" / "logs" / "studio.log").exists()


def test_main_returns_instead_of_exiting() -> None:
    assert main(["--port", "0"]) == 2


def test_stages_say_their_outcome_and_time_and_survive_a_closed_terminal() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    with terminal.stage("Server") as stage:
        stage.report("starting", 0.5)
        stage.outcome = "up"
    assert stream.getvalue().startswith("Server       up  (0.0 s)")
    assert list(terminal.stages) == ["Server"]
    stream.close()
    terminal.line("nobody listens")

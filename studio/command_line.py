"""What can be typed after ``python launcher.py``, and the help for it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as knobs
from pathlib import Path
from typing import Any

from studio import __version__
from studio.engines import commands as engine_commands
from studio.settings import Settings, option, variable
from studio.terminal import Terminal
from studio.venv.places import EXTRAS
from triton_models.diffusion import fields, samplers
from triton_models.diffusion.fields import Field

Run = Callable[[argparse.Namespace, Settings, Terminal], int]

# Attribute of ImageRequest → the field that describes it.
REQUEST_FIELDS: dict[str, Field] = {
    "negative_prompt": fields.NEGATIVE_PROMPT,
    "steps": fields.STEPS,
    "guidance_scale": fields.GUIDANCE,
    "seed": fields.SEED,
    "sampler": fields.SAMPLER,
    "width": fields.WIDTH,
    "height": fields.HEIGHT,
    "num_images": fields.NUM_IMAGES,
    "image": fields.IMAGE,
    "strength": fields.STRENGTH,
}
BOOT = (
    "model",
    "runtime",
    "engine",
    "gpu",
    "image",
    "engine_sources",
    "data_dir",
    "cache_dir",
    "threads",
    "log_level",
)
PAGE = ("port", "browser", "listen", "share", "password")

STUDIO_HELP = """\
Opens the studio: a page in the browser where prompts become pictures.

Every option is also an environment variable, named below; an option wins over it.
Pictures are kept in the data folder, each with the settings that made it."""

GENERATE_HELP = """\
Draws pictures without the page and prints the files they are in.

  python launcher.py generate "a red house by a lake at sunset" -o house.png
  python launcher.py generate "the same in snow" --image house.png --strength 0.5 -o snow.png
  python launcher.py generate "three boats" --num-images 4 --seed 7 --json

A studio that is running with the same --model, --engine, --gpu and --runtime does the work;
otherwise one is started for it and stopped again."""

DOCTOR_HELP = """\
Says what this machine has, what the studio will use and why, and what to fix.
The exit status is 0 when a studio can run here, 1 when something must be fixed first."""

BENCH_HELP = """\
Measures the studio against diffusers on this machine, in turn in one run: the same checkpoint,
request and threads. Also the share of the time that is not engines, the gap between two steps,
the stages of the start, memory, and each engine by itself."""

TEST_HELP = """\
Installs what the tests need and runs all of them: ruff, mypy and pytest.
Arguments after -- go to pytest:  python launcher.py test -- -k samplers"""

REPOSITORY_HELP = """\
Writes a folder that holds the models, their ONNX files and a compose file, so that Triton can be
run by hand, on one or several GPUs, for any gRPC client:

  python launcher.py repository served
  cd served && docker compose up

On a GPU, of a folder that was written on a machine with one:

  docker compose -f compose.yaml -f compose.gpu.yaml up"""


def parser(run: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The whole command line. ``run`` has the function of each command, and ``serve`` for none."""
    top = _Parser(prog="python launcher.py", description=STUDIO_HELP)
    top.add_argument("--version", action="version", version=f"Triton Studio {__version__}")
    top.set_defaults(run=run["serve"])
    _add_knobs(top, PAGE + BOOT)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    generate = commands.add_parser(
        "generate", help="draw pictures without the page", description=GENERATE_HELP
    )
    generate.set_defaults(run=run["generate"])
    generate.add_argument("prompt", help=fields.PROMPT.help)
    generate.add_argument(
        "-o", "--output", type=Path, help="a PNG; several pictures become NAME-1, NAME-2, …"
    )
    generate.add_argument(
        "--json", action="store_true", help="print files, seeds, engine and timings as JSON"
    )
    _add_request_fields(generate)
    _add_knobs(generate.add_argument_group("studio"), BOOT)

    doctor = commands.add_parser(
        "doctor", help="what was found, what will be used, what to fix", description=DOCTOR_HELP
    )
    doctor.set_defaults(run=run["doctor"])
    doctor.add_argument("--json", action="store_true", help="print it as JSON")
    _add_knobs(doctor, BOOT)

    bench = commands.add_parser("bench", help="measure this machine", description=BENCH_HELP)
    bench.set_defaults(run=run["bench"])
    bench.add_argument("--json", action="store_true", help="print the figures as JSON")
    bench.add_argument("--steps", type=int, default=20, help="denoising steps of the request (20)")
    bench.add_argument("--rounds", type=int, default=5, help="how often each side runs, in turn (5)")
    _add_knobs(bench, BOOT)

    test = commands.add_parser("test", help="run all tests", description=TEST_HELP)
    test.set_defaults(run=run["test"])
    test.add_argument("pytest_arguments", nargs="*", metavar="-- ARGUMENT", help="for pytest")

    repository = commands.add_parser(
        "repository", help="write a folder from which Triton runs by hand", description=REPOSITORY_HELP
    )
    repository.set_defaults(run=run["repository"])
    repository.add_argument("folder", type=Path, help="a new folder")
    _add_knobs(repository, BOOT)

    install = commands.add_parser(
        "install",
        help="add optional packages",
        description="Adds optional packages to .venv, pinned like the rest.",
    )
    install.set_defaults(run=run["install"])
    install.add_argument("extra", choices=EXTRAS, nargs="+", help="which")
    engine_commands.add(commands.add_parser("engines", help="list, build, verify, share engines"), _add_knobs)
    return top


class _Parser(argparse.ArgumentParser):
    """Keeps the line breaks of descriptions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)


def _add_knobs(target: Any, names: Sequence[str]) -> None:
    known = {knob.name: knob for knob in knobs(Settings)}
    for name in names:
        knob = known[name]
        facts = knob.metadata
        shown = facts["shown"]
        text = f"{facts['help']} [{variable(knob)}{'' if shown in ('', ()) else f', {_shown(shown)}'}]"
        flag = option(knob)
        # Absent unless given, so that a command's options do not undo those before its name.
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if flag.startswith("--no-"):
            target.add_argument(flag, action="store_false", **options | {"help": f"do not {text}"})
        elif isinstance(shown, bool):
            target.add_argument(flag, action="store_true", **options)
        else:
            metavar = "|".join(facts["choices"]) or name.removesuffix("_dir").upper()
            target.add_argument(flag, metavar=metavar, **options)


def _shown(value: object) -> str:
    return {True: "1", False: "0"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _add_request_fields(target: argparse.ArgumentParser) -> None:
    types = {"TYPE_INT32": int, "TYPE_INT64": int, "TYPE_FP32": float, "TYPE_STRING": str, "TYPE_UINT8": Path}
    for name, known in REQUEST_FIELDS.items():
        span = "" if known.low is None or known.high is None else f" [{known.low:g} to {known.high:g}]"
        span = span if known is not fields.SEED else ""
        given = "" if known.default in (None, "") else f" ({known.default})"
        target.add_argument(
            "--" + name.replace("_", "-"),
            dest=f"request_{name}",
            type=types[known.dtype],
            default=None,
            metavar=name.upper(),
            choices=samplers.NAMES if known is fields.SAMPLER else None,
            help=f"{known.help}{span}{given}",
        )

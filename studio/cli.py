"""The commands. Each is thin: options in, the module that does the work, an exit status out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields as knobs
from logging.handlers import RotatingFileHandler

from studio import command_line
from studio.command_line import REQUEST_FIELDS, Run
from studio.errors import Cancelled, RequestError, SettingsError, StudioError
from studio.request import ImageRequest
from studio.settings import Settings
from studio.terminal import Terminal
from studio.venv.state import state


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status. No traceback reaches the person who started it."""
    terminal = Terminal()
    asked = parser().parse_args(arguments)
    try:
        settings = Settings.load({knob.name: getattr(asked, knob.name, None) for knob in knobs(Settings)})
        _set_up_logging(settings)
        run: Run = asked.run
        return run(asked, settings, terminal)
    except KeyboardInterrupt:
        terminal.line("Stopped.")
        return 130
    except Cancelled as error:
        terminal.line(str(error))
        return 130
    except StudioError as error:
        for sentence in (error.what, error.state, error.hint):
            if sentence:
                terminal.line(sentence)
        return 2 if isinstance(error, SettingsError) else 1
    except Exception as error:
        logging.getLogger(__name__).exception("Unexpected")
        terminal.line(f"Something unexpected happened: {type(error).__name__}: {error}")
        terminal.line(
            "Nothing you made is lost. The log in the data folder has the details (`doctor` says where)."
        )
        return 1


def parser() -> argparse.ArgumentParser:
    """The whole command line, each command with its function."""
    return command_line.parser(
        {
            "serve": _serve,
            "generate": _generate,
            "doctor": _doctor,
            "bench": _bench,
            "repository": _repository,
            "test": _test,
            "install": _install,
        }
    )


class _Brief(logging.Formatter):
    """Tracebacks are for the log file."""

    def format(self, record: logging.LogRecord) -> str:
        shown = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        return super().format(shown)


def _set_up_logging(settings: Settings) -> None:
    root = logging.getLogger()
    root.setLevel(logging.INFO if settings.log_level != "debug" else logging.DEBUG)
    shown = logging.StreamHandler()
    shown.setLevel(settings.log_level.upper())
    shown.setFormatter(_Brief("%(name)s: %(message)s"))
    root.addHandler(shown)
    for chatty in ("httpx", "asyncio", "matplotlib", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        (settings.data_dir / "logs").mkdir(parents=True, exist_ok=True)
        kept = RotatingFileHandler(
            settings.data_dir / "logs" / "studio.log", maxBytes=2_000_000, backupCount=3
        )
    except OSError:  # the history says so, where it matters more
        return
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(kept)


# One function per command. Their modules are imported here, so that `--help` is quick.


def _serve(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from studio.start import serve

    return serve(settings, port_asked=hasattr(asked, "port"), terminal=terminal)


def _generate(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from studio.draw import draw
    from studio.image import open_image

    given = {name: getattr(asked, f"request_{name}") for name in REQUEST_FIELDS}
    if given["image"] is not None:
        if not given["image"].is_file():
            raise RequestError(f"There is no picture at {given['image']}.")
        given["image"] = open_image(given["image"])
    request = ImageRequest(
        asked.prompt, **{name: value for name, value in given.items() if value is not None}
    )
    return draw(settings, request, asked.output, as_json=asked.json, terminal=terminal)


def _doctor(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from studio.doctor import doctor

    return doctor(settings, as_json=asked.json)


def _bench(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from studio.bench import bench
    from studio.start import until_stopped

    with until_stopped(terminal):
        return bench(settings, steps=asked.steps, rounds=asked.rounds, as_json=asked.json, terminal=terminal)


def _repository(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from studio import machine
    from studio.prepare import prepare
    from studio.server import by_hand

    here = machine.look(settings)
    by_hand.write(asked.folder, prepare(settings, here, terminal).repository(), bool(here.gpus))
    files = " -f compose.yaml -f compose.gpu.yaml" if here.gpus else ""
    terminal.line(f"Written to {asked.folder}; `docker compose{files} up` there serves it.")
    return 0


def _test(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from studio.checks import run_all

    return run_all(asked.pytest_arguments, terminal)


def _install(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    if state(asked.extra) != "ready":  # launcher.py installs on the way here, when it sees the command
        raise SettingsError(
            "Nothing was installed: an option stands before the command.",
            hint=f"Type: python launcher.py install {' '.join(asked.extra)}",
        )
    terminal.line(f"Installed: {', '.join(asked.extra)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

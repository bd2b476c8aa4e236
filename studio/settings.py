"""Every knob of the studio, once: its default, its environment variable, its option, a line of help.

The command line is made from this list, and so is the README's table.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import platformdirs

from studio.errors import SettingsError

PREFIX = "STUDIO_"
CHECKOUT = Path(__file__).resolve().parents[1]

_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")


def _knob(
    default: Any,
    help: str,
    read: Callable[[str], Any] = str,
    *,
    env: str = "",
    choices: tuple[str, ...] = (),
    flag: str = "",
    secret: bool = False,
) -> Any:
    facts = {
        "help": help,
        "read": read,
        "env": env,
        "choices": choices,
        "flag": flag,
        "secret": secret,
        "shown": default() if callable(default) else default,
    }
    if callable(default):
        return field(default_factory=default, metadata=facts)
    return field(default=default, metadata=facts)


def _switch(text: str) -> bool:
    if text.lower() not in _YES + _NO:
        raise ValueError("not one of 1 or 0")
    return text.lower() in _YES


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"not a whole number from {low} to {high}")
        return value

    return read


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _sources(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _gpu(text: str) -> str:
    if not re.fullmatch(r"auto|all|\d+|(GPU|MIG)-[\w-]+", text):
        raise ValueError("not auto, all, an index such as 0, or a UUID such as GPU-…")
    return text


def _default_data() -> Path:
    return Path(platformdirs.user_data_dir("triton-studio", appauthor=False))


def _default_cache() -> Path:
    return CHECKOUT / "engine_cache"


@dataclass(frozen=True)
class Settings:
    """How the studio runs, as one immutable value."""

    port: int = _knob(
        7860, "the page's port; when it is taken, a free one is used and said", _number(1, 65535)
    )
    listen: bool = _knob(
        False, "let other machines of this network open the page; asks for a password", _switch
    )
    share: bool = _knob(False, "make a public link to the page; always behind a password", _switch)
    password: str = _knob("", "the page's password; made up and printed where one is needed", secret=True)
    browser: bool = _knob(True, "open the page in the browser", _switch, flag="--no-browser")
    model: str = _knob(
        "",
        "a diffusers folder, a .safetensors file (Stable Diffusion 1.x, 2.x) or a Hub id; empty: ours",
    )
    runtime: str = _knob(
        "auto",
        "where Triton runs: in a container, or embedded, as our own process",
        choices=("auto", "embedded", "container"),
    )
    engine: str = _knob(
        "auto",
        "what computes; auto takes the fastest that this machine has",
        choices=("auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"),
    )
    gpu: str = _knob("auto", "the GPU: an index, a UUID, all, or auto for the one with the most memory", _gpu)
    image: str = _knob(
        "", "Triton's container image; empty: the one that suits the GPU's driver", env="CONTAINER_IMAGE"
    )
    engine_sources: tuple[str, ...] = _knob(
        (),
        "where to look for engines before building: folders, URLs or hf:owner/repository, comma between",
        _sources,
    )
    data_dir: Path = _knob(  # noqa: RUF009
        _default_data, "where pictures, their history and the logs are kept", _path, env="DATA"
    )
    cache_dir: Path = _knob(  # noqa: RUF009
        _default_cache, "where exports and engines are kept; safe to delete", _path, env="CACHE"
    )
    threads: int = _knob(0, "CPU threads for the engines; 0: one per physical core", _number(0, 1024))
    log_level: str = _knob(
        "warning",
        "what the terminal shows of the log; the log file has it all",
        choices=("debug", "info", "warning", "error"),
    )

    @staticmethod
    def load(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
        """The settings in force: ``overrides`` (the command line's; None counts as not given), then
        ``STUDIO_…`` variables, then the defaults. Raises SettingsError for an unknown name or a bad value."""
        values = _from_environment(environ)
        known = {knob.name: knob for knob in fields(Settings)}
        for name, value in (overrides or {}).items():
            if name not in known:
                raise SettingsError(f"There is no setting {name!r}.", hint=_suggest(name, known))
            if value is not None:
                text = str(value) if not isinstance(value, tuple) else ",".join(value)
                values[name] = _read(known[name], text, option(known[name]))
        return Settings(**values)


def variable(knob: Field[Any]) -> str:
    """The knob's environment variable, such as ``STUDIO_PORT``."""
    return PREFIX + (knob.metadata["env"] or knob.name.upper())


def option(knob: Field[Any]) -> str:
    """The knob's option on the command line, such as ``--port``."""
    flag: str = knob.metadata["flag"]
    return flag or "--" + variable(knob).removeprefix(PREFIX).lower().replace("_", "-")


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {variable(knob): knob for knob in fields(Settings)}
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        if name not in known:
            raise SettingsError(f"The environment variable {name} is no setting.", hint=_suggest(name, known))
        values[known[name].name] = _read(known[name], text, name)
    return values


def _read(knob: Field[Any], text: str, source: str) -> Any:
    choices = knob.metadata["choices"]
    shown = "the value given" if knob.metadata["secret"] else repr(text)
    if choices and text not in choices:
        raise SettingsError(f"{source} cannot be {shown}.", hint=f"It is one of {', '.join(choices)}.")
    try:
        return knob.metadata["read"](text)
    except ValueError as error:
        why = str(error) if str(error).startswith("not ") else "not a whole number"
        raise SettingsError(
            f"{source} cannot be {shown}: it is {why}.", hint=f"It is {knob.metadata['help']}."
        ) from None


def _suggest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Was {close[0]} meant?" if close else f"There are: {', '.join(known)}."

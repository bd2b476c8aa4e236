"""Settings: defaults, variables and options, and refusals that say what to do."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from studio.errors import SettingsError
from studio.settings import Settings, option, variable


def test_defaults_are_what_a_newcomer_meets() -> None:
    settings = Settings.load({}, {})
    assert (settings.port, settings.listen, settings.share, settings.browser) == (7860, False, False, True)
    assert (settings.model, settings.runtime, settings.engine, settings.gpu) == ("", "auto", "auto", "auto")
    assert settings.cache_dir.name == "engine_cache"
    with pytest.raises(FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]


def test_an_option_wins_over_its_variable_and_that_over_the_default(tmp_path: Path) -> None:
    environ = {"STUDIO_PORT": "8000", "STUDIO_DATA": str(tmp_path), "STUDIO_BROWSER": "0", "HOME": "/"}
    assert Settings.load({}, environ).port == 8000
    assert Settings.load({"port": None}, environ).port == 8000
    settings = Settings.load({"port": 9000}, environ)
    assert (settings.port, settings.data_dir, settings.browser) == (9000, tmp_path, False)


def test_lists_are_split_and_paths_made_absolute() -> None:
    settings = Settings.load({"cache_dir": "here"}, {"STUDIO_ENGINE_SOURCES": "/a, https://b/c ,"})
    assert settings.engine_sources == ("/a", "https://b/c")
    assert settings.cache_dir == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STUDIO_PORT", "0"),
        ("STUDIO_PORT", "65536"),
        ("STUDIO_PORT", "many"),
        ("STUDIO_LISTEN", "perhaps"),
        ("STUDIO_RUNTIME", "cloud"),
        ("STUDIO_ENGINE", "TensorRT"),
        ("STUDIO_GPU", "first"),
        ("STUDIO_THREADS", "-1"),
        ("STUDIO_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_named_with_its_source(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.load({}, {name: value})
    assert name in refusal.value.what
    assert repr(value) in refusal.value.what
    assert refusal.value.hint


def test_a_bad_option_is_named_as_the_option() -> None:
    with pytest.raises(SettingsError, match="--gpu"):
        Settings.load({"gpu": "first"}, {})


def test_an_unknown_variable_fails_and_names_the_likely_one() -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.load({}, {"STUDIO_PROT": "1"})
    assert "STUDIO_PROT" in refusal.value.what
    assert "STUDIO_PORT" in refusal.value.hint
    with pytest.raises(SettingsError, match="'prot'"):
        Settings.load({"prot": 1}, {})


def test_every_knob_has_help_a_variable_and_an_option_of_its_own() -> None:
    knobs = fields(Settings)
    assert all(knob.metadata["help"] for knob in knobs)
    assert len({variable(knob) for knob in knobs}) == len({option(knob) for knob in knobs}) == len(knobs)

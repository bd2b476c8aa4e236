"""The engine cache: hits, misses with their reason, damage set aside, and builders that wait their turn."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studio.engines.cache import WHY, EngineCache, Miss
from studio.engines.entry import SIDECAR, Entry, Facts, plan_name
from studio.engines.key import EngineKey, Profile
from studio.errors import BuildCancelled, CacheError
from studio.report import silent

KEY = EngineKey(
    component="denoiser",
    onnx="a" * 64,
    flavour="tensorrt",
    version="11.3.0.99",
    capability="8.9",
    precision="fp16",
    device="NVIDIA GeForce RTX 4090 24 GB",
    system="Linux-x86_64",
    profile=Profile.fixed(1, 64, 64),
)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engine_cache")


def put(cache: EngineCache, key: EngineKey = KEY, content: bytes = b"plan") -> Entry:
    with cache.alone(key, silent, threading.Event()), cache.staging(key) as folder:
        (folder / plan_name(key)).write_bytes(content)
        return cache.keep(folder, key, Facts(gpu="RTX 4090", build_seconds=12.5))


def hit(cache: EngineCache, key: EngineKey = KEY) -> Entry:
    found = cache.look_up(key)
    assert isinstance(found, Entry)
    return found


def miss(cache: EngineCache, key: EngineKey = KEY) -> Miss:
    found = cache.look_up(key)
    assert isinstance(found, Miss)
    return found


def test_what_was_kept_is_found_again(cache: EngineCache) -> None:
    kept = put(cache)
    found = hit(cache)
    assert found == kept
    assert (found.size, found.facts.build_seconds) == (4, 12.5)
    assert found.plan.read_bytes() == b"plan"
    assert [path.name for path in cache.plans.iterdir() if path.is_dir()] == [KEY.name]


def test_the_models_are_told_the_ranges_of_the_key(cache: EngineCache) -> None:
    engine = put(cache).engine
    assert (engine.flavour, engine.precision, engine.key) == ("tensorrt", "fp16", KEY.name)
    assert engine.admits(1, 64, 64)
    assert not engine.admits(2, 64, 64)
    assert not engine.admits(1, 96, 64)
    prompts = put(cache, replace(KEY, component="text_encoder", profile=Profile.fixed(1, 1, 1))).engine
    assert prompts.admits(4, 96, 96)


def test_plans_have_names_of_their_own(cache: EngineCache) -> None:
    """Runtimes name what they compile after the plan."""
    other = replace(KEY, component="vae_decoder")
    assert put(cache).plan.stem != put(cache, other).plan.stem


def test_a_miss_names_what_differs_from_the_nearest_engine(cache: EngineCache) -> None:
    assert miss(cache).reason == "No engine for the denoiser was built yet."
    put(cache, replace(KEY, version="10.9.0.34", capability="8.6"))
    put(cache, replace(KEY, version="10.9.0.34"))
    put(cache, replace(KEY, component="vae_decoder"))
    found = miss(cache)
    assert found.differences == ("its TensorRT version is 10.9.0.34, not 11.3.0.99",)
    assert found.differences[0] in found.reason


def _truncate(folder: Path) -> None:
    (folder / plan_name(KEY)).write_bytes(b"pl")


def _flip(folder: Path) -> None:
    (folder / plan_name(KEY)).write_bytes(b"plaN")


def _lose_plan(folder: Path) -> None:
    (folder / plan_name(KEY)).unlink()


def _lose_sidecar(folder: Path) -> None:
    (folder / SIDECAR).unlink()


def _garble(folder: Path) -> None:
    (folder / SIDECAR).write_bytes(b"\xff{")


def _swell(folder: Path) -> None:
    (folder / SIDECAR).write_bytes(b" " * (2 << 20))


def _edit(folder: Path, change: dict[str, Any]) -> None:
    content = json.loads((folder / SIDECAR).read_text())
    for name, value in change.items():
        part, _, inner = name.partition(".")
        if inner:
            content[part][inner] = value
        else:
            content[part] = value
    (folder / SIDECAR).write_text(json.dumps(content))


def _foreign_gpu(folder: Path) -> None:
    other = replace(KEY, capability="7.5", device="Tesla T4 15 GB")
    _edit(folder, {"name": other.name, "key.capability": "7.5", "key.device": "Tesla T4 15 GB"})


def _foreign_system(folder: Path) -> None:
    other = replace(KEY, system="Windows-AMD64")
    _edit(folder, {"name": other.name, "key.system": "Windows-AMD64"})


def _lie_of_key(folder: Path) -> None:
    _edit(folder, {"key.version": "11.4.0.106"})


def _lie_of_facts(folder: Path) -> None:
    _edit(folder, {"facts.latency_ms": "fast"})


def _unknown_fact(folder: Path) -> None:
    _edit(folder, {"facts.surprise": 1})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "2 bytes instead of 4"),
        (_flip, "checksum is wrong"),
        (_lose_plan, "cannot be read"),
        (_lose_sidecar, "sidecar is missing"),
        (_garble, "sidecar cannot be read"),
        (_swell, "far too large"),
        (_foreign_gpu, "its compute capability is 7.5, not 8.9"),
        (_foreign_system, "its system is Windows-AMD64"),
        (_lie_of_key, "name is not that of the key"),
        (_lie_of_facts, "latency_ms is 'fast'"),
        (_unknown_fact, "sidecar cannot be read"),
    ],
)
def test_damage_and_lies_are_set_aside_with_the_reason_and_rebuilt(
    cache: EngineCache, damage: Any, words: str
) -> None:
    folder = put(cache).folder
    damage(folder)
    assert words in miss(cache).reason
    (aside,) = cache.quarantine.iterdir()
    assert words in (aside / WHY).read_text()
    assert words in cache.set_aside[0]
    assert not folder.exists()
    put(cache)
    assert hit(cache).size == 4


def test_verify_keeps_the_sound_and_sets_the_rest_aside(cache: EngineCache) -> None:
    sound = put(cache)
    broken = put(cache, replace(KEY, level=5))
    broken.plan.write_bytes(b"PLAN")
    sound.folder.with_name("copy").mkdir()
    for file in sound.folder.iterdir():
        (sound.folder.with_name("copy") / file.name).write_bytes(file.read_bytes())
    kept, unsound = cache.verify()
    assert kept == [sound]
    assert {line.split(":")[0] for line in unsound} == {"copy", broken.folder.name}
    assert cache.entries() == [sound]


def test_a_failed_build_leaves_nothing(cache: EngineCache) -> None:
    with contextlib.suppress(ZeroDivisionError), cache.staging(KEY) as folder:
        (folder / "half").write_bytes(b"x")
        raise ZeroDivisionError
    assert [path for path in cache.plans.iterdir() if path.is_dir()] == []


def test_a_disk_that_refuses_is_told_and_loses_nothing(cache: EngineCache) -> None:
    put(cache)
    (cache.root / "quarantine").write_text("a file where a folder should be")
    (cache.plans / KEY.name / plan_name(KEY)).write_bytes(b"PLAN")
    with pytest.raises(CacheError, match="could not be set aside"):
        cache.look_up(KEY)
    assert (cache.plans / KEY.name).is_dir()


def test_a_measured_time_is_written_down(cache: EngineCache) -> None:
    cache.note(put(cache), latency_ms=8.69)
    assert hit(cache).facts.latency_ms == 8.69


def test_removing_frees_what_it_says(cache: EngineCache) -> None:
    entry = put(cache, content=b"x" * 1000)
    assert cache.remove(entry.folder) >= 1000
    assert cache.entries() == []


def _hold(root: Path, ready: Any, seconds: float) -> None:
    cache = EngineCache(root)
    with cache.alone(KEY, silent, threading.Event()):
        ready.set()
        time.sleep(seconds)
        if not isinstance(cache.look_up(KEY), Entry):
            with cache.staging(KEY) as folder:
                (folder / plan_name(KEY)).write_bytes(b"plan")
                cache.keep(folder, KEY, Facts())


def test_a_second_builder_waits_for_the_first_and_finds_its_engine(cache: EngineCache) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    first = context.Process(target=_hold, args=(cache.root, ready, 0.6))
    first.start()
    assert ready.wait(20)
    told: list[str] = []
    with cache.alone(KEY, lambda message, _: told.append(message), threading.Event()):
        assert hit(cache).size == 4
    first.join()
    assert told
    assert told[0].startswith("Waiting for another studio")


def test_the_lock_of_a_killed_builder_is_free_and_its_leftovers_are_swept(cache: EngineCache) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    first = context.Process(target=_hold, args=(cache.root, ready, 60))
    first.start()
    assert ready.wait(20)
    leftover = cache.plans / f".{KEY.name}.partial"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"x")
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    put(cache)
    assert not leftover.exists()
    assert hit(cache).size == 4


def test_waiting_can_be_cancelled(cache: EngineCache) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with (
        cache.alone(KEY, silent, threading.Event()),
        pytest.raises(BuildCancelled),
        cache.alone(KEY, silent, cancelled),
    ):
        pass

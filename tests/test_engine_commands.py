"""``engines …`` as a person types it."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from studio import cli
from studio.engines import commands
from studio.engines.cache import EngineCache
from studio.engines.entry import Entry, Facts, plan_name
from studio.engines.flavour import TENSORRT_RTX, installed
from studio.engines.key import EngineKey, Profile, Target
from studio.engines.places import place
from studio.engines.workshop import Workshop
from studio.errors import BuildError
from studio.gpu import GIB, Gpu
from studio.report import silent
from studio.settings import Settings
from studio.terminal import Terminal

KEY = EngineKey(
    component="denoiser",
    onnx="a" * 64,
    flavour="tensorrt",
    version="11.3.0.99",
    capability="8.9",
    precision="fp16",
    device="NVIDIA GeForce RTX 4090 24 GB",
    system="Linux-x86_64",
    profile=Profile.fixed(1, 64, 96),
)
needs_rtx = pytest.mark.skipif(TENSORRT_RTX not in installed(), reason="TensorRT-RTX is not installed")
GPU = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", (8, 9), 24 * GIB, 20 * GIB, "580.95", (13, 0))


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engine_cache")


def put(cache: EngineCache, key: EngineKey, **facts: object) -> Entry:
    with cache.alone(key, silent, threading.Event()), cache.staging(key) as folder:
        (folder / plan_name(key)).write_bytes(b"plan" * 1000)
        return cache.keep(folder, key, Facts(**facts))  # type: ignore[arg-type]


def run(cache: EngineCache, *arguments: str) -> int:
    return cli.main(["engines", arguments[0], "--cache", str(cache.root), *arguments[1:]])


def test_list_shows_sizes_and_says_what_each_is_for(
    cache: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, KEY, latency_ms=8.69, build_seconds=335.0)
    put(cache, replace(KEY, component="vae_decoder"), rejected="it is slower")
    assert run(cache, "list") == 0
    out = capsys.readouterr().out
    assert "768 × 512, batch 1" in out
    assert "8.69 ms" in out
    assert "built in 335 s" in out
    assert "NOT USED: it is slower" in out
    assert "2 engines, 0.0 MB" in out

    assert run(cache, "list", "--json") == 0
    assert {one["size"] for one in json.loads(capsys.readouterr().out)} == {4000}


def test_verify_fails_once_for_a_damaged_engine(cache: EngineCache) -> None:
    entry = put(cache, KEY)
    assert run(cache, "verify") == 0
    entry.plan.write_bytes(b"damaged")
    assert run(cache, "verify") == 1
    assert run(cache, "verify") == 0


@needs_rtx
def test_prune_deletes_what_is_of_no_use(cache: EngineCache) -> None:
    kept = put(cache, KEY)
    put(cache, replace(KEY, level=4), rejected="it is slower")
    put(cache, replace(KEY, flavour=TENSORRT_RTX, version="1.0"))
    put(cache, replace(KEY, level=5)).plan.unlink()
    cache.verify()
    assert run(cache, "prune") == 0
    assert cache.entries() == [kept]
    assert not cache.quarantine.exists()
    assert run(cache, "prune", "--all") == 0
    assert cache.entries() == []


def test_export_and_import_carry_engines_to_another_machine(cache: EngineCache, tmp_path: Path) -> None:
    entry = put(cache, KEY)
    put(cache, replace(KEY, component="vae_decoder"))
    assert run(cache, "export", str(tmp_path / "shared"), entry.key.name) == 0
    there = EngineCache(tmp_path / "there")
    assert run(there, "import", str(tmp_path / "shared")) == 0
    assert [one.key for one in there.entries()] == [KEY]
    assert run(cache, "export", str(tmp_path / "shared"), "no-such-engine") == 2
    entry.plan.write_bytes(b"damaged")
    assert run(cache, "export", str(tmp_path / "elsewhere")) == 1


@needs_rtx
@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "500x512"],
        ["--size", "big"],
        ["--size", "0x8"],
        ["--size", "768x8..8x768"],
        ["--batch", "4..1"],
    ],
)
def test_build_refuses_impossible_sizes(cache: EngineCache, arguments: list[str]) -> None:
    assert run(cache, "build", "--for", "8.9", *arguments) == 2


def test_build_without_a_gpu_says_what_can_be_done() -> None:
    asked = cli.parser().parse_args(["engines", "build"])
    settings = Settings.load({"engine": "onnxruntime"})
    with pytest.raises(BuildError, match=r"--for 8\.9"):
        commands.build_engines(asked, settings, Terminal(io.StringIO()))


# -- the workshop --------------------------------------------------------------------------------------


def test_engines_made_before_are_found_for_every_size(cache: EngineCache, exported: Path) -> None:
    workshop = Workshop(cache, Target("tensorrt", "11.3.0.99", "8.9", "fp16", KEY.device))
    sizes = [Profile.fixed(1, 32, 32), Profile.fixed(4, 64, 64)]
    keys = [order.key for size in sizes for order in workshop.orders(exported, size)]
    for key in dict.fromkeys(keys):
        put(cache, key)
    put(cache, replace(keys[2], level=5))
    put(cache, replace(keys[2], profile=Profile.fixed(2, 8, 8)), rejected="it is slower")
    found = workshop.built(exported)
    assert {name: len(entries) for name, entries in found.items()} == {
        "text_encoder": 1,
        "vae_encoder": 2,
        "denoiser": 2,
        "vae_decoder": 2,
    }


def test_engines_are_tried_again_after_a_new_driver(cache: EngineCache, exported: Path) -> None:
    """Here no plan runs, so the one that was not tried under this driver is set aside."""
    workshop = Workshop(cache, Target("tensorrt", "11.3.0.99", "8.9", "fp16", KEY.device), GPU)
    _, _, denoiser, decoder = workshop.orders(exported, Profile.fixed(1, 32, 32))
    put(cache, denoiser.key, driver=GPU.driver)
    put(cache, decoder.key, driver="570.00")
    assert list(workshop.built(exported)) == ["denoiser"]
    assert "since the driver is 580.95" in cache.set_aside[0]


def test_a_workshop_fetches_before_it_builds(cache: EngineCache, exported: Path, tmp_path: Path) -> None:
    there = EngineCache(tmp_path / "there")
    workshop = Workshop(
        cache, Target(TENSORRT_RTX, "1.7.1.116", "9.0", "fp16"), places=[place(str(tmp_path))]
    )
    (order, *_) = workshop.orders(exported, Profile.fixed(1, 32, 32))
    put(there, order.key)
    run(there, "export", str(tmp_path))
    entry, notes = workshop.obtain(order)
    assert (entry.facts.origin, notes) == (f"fetched from {tmp_path}", ())

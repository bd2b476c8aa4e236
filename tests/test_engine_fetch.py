"""Fetching engines: from folders, over HTTP and from the Hub, and everything a bad place can do."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from studio.engines import index
from studio.engines.cache import EngineCache
from studio.engines.components import VAE_DECODER
from studio.engines.entry import Entry, Facts, Unfit, plan_name
from studio.engines.fetch import Fetched, fetch, import_all
from studio.engines.flavour import TENSORRT
from studio.engines.key import EngineKey, Profile, Target
from studio.engines.order import Order
from studio.engines.places import place
from studio.errors import BuildCancelled, CacheError, FetchError
from studio.gpu import GIB, Gpu
from studio.report import silent

PLAN = bytes(range(256)) * 4096 * 3  # 3 MiB


@pytest.fixture
def order(tmp_path: Path) -> Order:
    (tmp_path / "vae_decoder.onnx").write_bytes(b"graph")
    target = Target(TENSORRT, "11.3.0.99", "8.9", "fp16", "NVIDIA GeForce RTX 4090 24 GB")
    key = EngineKey.of(VAE_DECODER, tmp_path / "vae_decoder.onnx", target, Profile.fixed(1, 64, 64))
    return Order(VAE_DECODER, tmp_path, key, {}, "test")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engine_cache")


def made(root: Path, *keys: EngineKey) -> EngineCache:
    """A cache of another machine with these engines."""
    there = EngineCache(root)
    for key in keys:
        with there.staging(key) as folder:
            (folder / plan_name(key)).write_bytes(PLAN)
            there.keep(folder, key, Facts(gpu=key.device, build_seconds=300.0))
    return there


@pytest.fixture
def shared(order: Order, tmp_path: Path) -> Path:
    """A folder that another machine exported ``order``'s engine to."""
    there = made(tmp_path / "there", order.key)
    index.export(there.entries(), tmp_path / "shared")
    return tmp_path / "shared"


@dataclass
class Site:
    """A web server over a folder that can misbehave."""

    folder: Path
    address: str = ""
    drops: int = 0  # how many answers break off half-way
    ranges: bool = True
    asked: list[str] = field(default_factory=list)  # path and Range of each request


@pytest.fixture
def site(shared: Path) -> Iterator[Site]:
    site = Site(shared)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
            file = site.folder / self.path.split("/")[-1]
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            start = 0
            if site.ranges and "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if file.suffix == ".plan" and site.drops > 0:
                site.drops -= 1
                self.wfile.write(content[start : start + (len(content) - start) // 2])
                return
            self.wfile.write(content[start:])

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()


def taken(result: Fetched) -> Entry:
    assert result.entry is not None, result.notes
    return result.entry


def refused(result: Fetched) -> str:
    assert result.entry is None
    return " ".join(result.notes)


def rewrite(shared: Path, **change: Any) -> None:
    """Make the index lie about its one engine."""
    content = json.loads((shared / index.INDEX).read_text())
    content["engines"][0].update(change)
    (shared / index.INDEX).write_text(json.dumps(content))


# -- where from ----------------------------------------------------------------------------------------


def test_what_one_machine_exports_another_fetches(order: Order, cache: EngineCache, shared: Path) -> None:
    result = fetch(order, [place(str(shared))], cache)
    entry = taken(result)
    assert entry.plan.read_bytes() == PLAN
    assert entry.facts.origin == f"fetched from {shared}"
    assert entry.facts.build_seconds == 300.0
    assert result.notes == ()
    assert cache.look_up(order.key) == entry


def test_over_http_with_progress(order: Order, cache: EngineCache, site: Site) -> None:
    told: list[float] = []
    entry = taken(fetch(order, [place(site.address)], cache, lambda _, part: told.append(part or 0.0)))
    assert entry.plan.read_bytes() == PLAN
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_from_the_hub(order: Order, cache: EngineCache, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    entry = taken(fetch(order, [place("hf:someone/engines@v1")], cache))
    assert entry.facts.origin == "fetched from hf:someone/engines@v1"
    assert site.asked[0] == "/someone/engines/resolve/v1/index.json"


def test_what_is_there_is_not_asked_for(order: Order, cache: EngineCache, site: Site) -> None:
    fetch(order, [place(site.address)], cache)
    asked = len(site.asked)
    assert taken(fetch(order, [place(site.address)], cache))
    assert len(site.asked) == asked


def test_the_next_place_is_tried(order: Order, cache: EngineCache, shared: Path, tmp_path: Path) -> None:
    result = fetch(order, [place(str(tmp_path / "nowhere")), place(str(shared))], cache)
    assert taken(result)
    assert "nowhere cannot be read" in result.notes[0]


def test_only_named_places_are_asked(order: Order, cache: EngineCache) -> None:
    assert fetch(order, [], cache) == Fetched(None, ())


# -- what for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("version", "11.4.0.106", "its TensorRT version is 11.4.0.106"),
        ("capability", "8.6", "its compute capability is 8.6"),
        ("system", "Windows-AMD64", "its system is Windows-AMD64"),
        ("precision", "fp32", "its precision is fp32"),
        ("profile", Profile.fixed(1, 96, 96), "its size is 768 × 768"),
        ("onnx", "0" * 64, "it has none"),
        ("component", "denoiser", "it has none"),
    ],
)
def test_an_engine_for_something_else_is_not_taken(
    order: Order, cache: EngineCache, tmp_path: Path, part: str, value: Any, words: str
) -> None:
    there = made(tmp_path / "there", replace(order.key, **{part: value}))
    index.export(there.entries(), tmp_path / "shared")
    assert words in refused(fetch(order, [place(str(tmp_path / "shared"))], cache))
    assert cache.entries() == []


def test_another_card_of_the_same_capability_is_taken_with_a_warning(
    order: Order, cache: EngineCache, tmp_path: Path
) -> None:
    other = replace(order.key, device="NVIDIA GeForce RTX 4070 12 GB")
    index.export(made(tmp_path / "there", other).entries(), tmp_path / "shared")
    result = fetch(order, [place(str(tmp_path / "shared"))], cache)
    assert taken(result).facts.gpu == "NVIDIA GeForce RTX 4070 12 GB"
    assert "made on another card (NVIDIA GeForce RTX 4070 12 GB)" in result.notes[0]

    mine = made(tmp_path / "mine", order.key)
    index.export(mine.entries(), tmp_path / "shared")
    exact = fetch(order, [place(str(tmp_path / "shared"))], EngineCache(tmp_path / "again"))
    assert exact.notes == ()  # the card's own is preferred


def test_an_engine_that_fails_its_trial_is_not_kept(order: Order, cache: EngineCache, shared: Path) -> None:
    """On a machine with no GPU every plan fails it."""
    gpu = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", (8, 9), 24 * GIB, 20 * GIB, "580.95", (13, 0))
    words = refused(fetch(replace(order, gpu=gpu), [place(str(shared))], cache))
    assert "does not run here" in words
    assert cache.entries() == []


# -- bad places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret.plan",
        "a/../../b",
        "/etc/passwd",
        "a\\..\\b",
        "C:\\x",
        ".hidden",
        "a/.b",
        "",
        "a//b",
        "x/",
        7,
    ],
)
def test_a_path_that_leads_elsewhere_condemns_the_place(
    order: Order, cache: EngineCache, shared: Path, path: Any
) -> None:
    rewrite(shared, file=path)
    assert "it lists the path" in refused(fetch(order, [place(str(shared))], cache))


def test_a_link_that_leads_elsewhere_is_refused(order: Order, cache: EngineCache, shared: Path) -> None:
    (shared / "away.plan").symlink_to(order.onnx)
    rewrite(shared, file="away.plan")
    assert "leads out of" in refused(fetch(order, [place(str(shared))], cache))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, "another checksum than its index says"),
        ({"size": len(PLAN) - 1}, "another size than its index says"),
        ({"size": len(PLAN) + 1}, f"Only {len(PLAN)} of {len(PLAN) + 1} bytes"),
        ({"sha256": "short"}, "it lists the checksum"),
        ({"size": -1}, "it lists the size"),
        ({"size": "big"}, "it lists the size"),
        ({"facts": {"latency_ms": "fast"}}, "cannot be used"),
        ({"key": {}}, "the parts are not those of an engine's key"),
        ({"file": "missing.plan"}, "missing.plan"),
    ],
)
def test_lies_of_an_index_are_found(
    order: Order, cache: EngineCache, shared: Path, site: Site, change: dict[str, Any], words: str
) -> None:
    rewrite(shared, **change)
    for named in (str(shared), site.address):
        said = refused(fetch(order, [place(named)], EngineCache(cache.root / named[-5:])))
        assert words in said or "cannot be read" in said
    assert cache.entries() == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff", b'{"format": 2, "engines": []}', b"[" * 100_000]
)
def test_what_is_no_index_is_told(order: Order, cache: EngineCache, shared: Path, content: bytes) -> None:
    (shared / index.INDEX).write_bytes(content)
    assert "cannot be used" in refused(fetch(order, [place(str(shared))], cache))


def test_a_dropped_download_goes_on_where_it_stopped(order: Order, cache: EngineCache, site: Site) -> None:
    site.drops = 2
    assert taken(fetch(order, [place(site.address)], cache)).plan.read_bytes() == PLAN
    ranges = [asked.split(" ")[1] for asked in site.asked if " " in asked]
    assert ranges[0] == f"bytes={len(PLAN) // 2}-"
    assert len(ranges) == 2


def test_a_download_that_keeps_dropping_is_resumed_by_the_next_start(
    order: Order, cache: EngineCache, site: Site
) -> None:
    site.drops = 4
    assert "What came so far is kept" in refused(fetch(order, [place(site.address)], cache))
    site.asked.clear()
    assert taken(fetch(order, [place(site.address)], cache)).plan.read_bytes() == PLAN
    assert "bytes=" in site.asked[1]


def test_a_server_that_ignores_ranges_is_asked_from_the_start(
    order: Order, cache: EngineCache, site: Site
) -> None:
    site.drops, site.ranges = 1, False
    assert taken(fetch(order, [place(site.address)], cache)).plan.read_bytes() == PLAN


def test_a_server_that_is_not_there_is_told(order: Order, cache: EngineCache, site: Site) -> None:
    assert "index.json could not be had" in refused(fetch(order, [place("http://127.0.0.1:1")], cache))
    (site.folder / index.INDEX).unlink()
    assert "it answered 404 Not Found" in refused(fetch(order, [place(site.address)], cache))


def test_a_download_can_be_cancelled(order: Order, cache: EngineCache, site: Site) -> None:
    cancel = threading.Event()
    with pytest.raises(BuildCancelled, match="cancelled"):
        fetch(order, [place(site.address)], cache, lambda _, part: cancel.set() if part else None, cancel)
    assert cache.entries() == []


def test_a_disk_that_refuses_is_this_machines_fault(order: Order, cache: EngineCache, shared: Path) -> None:
    cache.root.mkdir()
    (cache.root / "downloads").write_text("a file where a folder should be")
    with pytest.raises(CacheError, match="could not be downloaded"):
        fetch(order, [place(str(shared))], cache)


# -- export and import ---------------------------------------------------------------------------------


def test_export_adds_to_what_is_shared_already(order: Order, tmp_path: Path, shared: Path) -> None:
    other = replace(order.key, capability="8.6", device="NVIDIA GeForce RTX 3060 12 GB")
    index.export(made(tmp_path / "other", other).entries(), shared)
    offers = index.parse_index((shared / index.INDEX).read_bytes(), "shared")
    assert {offer.key.capability for offer in offers} == {"8.9", "8.6"}


def test_export_refuses_a_damaged_engine_and_a_foreign_index(order: Order, tmp_path: Path) -> None:
    there = made(tmp_path / "there", order.key)
    (entry,) = there.entries()
    target = tmp_path / "target"
    target.mkdir()
    (target / index.INDEX).write_text("{}")
    with pytest.raises(FetchError, match="cannot be used"):
        index.export([entry], target)
    entry.plan.write_bytes(b"damaged")
    with pytest.raises(Unfit, match="bytes instead of"):
        index.export([entry], tmp_path / "elsewhere")


def test_import_takes_engines_of_any_machine(
    order: Order, cache: EngineCache, shared: Path, tmp_path: Path
) -> None:
    other = replace(order.key, capability="8.6")
    index.export(made(tmp_path / "other", other).entries(), shared)
    assert {entry.key.capability for entry in import_all([place(str(shared))], cache, silent)} == {
        "8.9",
        "8.6",
    }
    assert len(cache.entries()) == 2

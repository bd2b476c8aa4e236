"""``engines list | build | verify | prune | export | import``."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studio import machine
from studio.engines import index
from studio.engines.cache import EngineCache
from studio.engines.components import PIXELS_PER_LATENT
from studio.engines.entry import Entry, Unfit
from studio.engines.fetch import import_all
from studio.engines.flavour import TENSORRT_RTX, installed
from studio.engines.key import DEFAULT_LEVEL, Profile, Target
from studio.engines.places import place
from studio.engines.workshop import Workshop
from studio.errors import BuildError, CacheError, SettingsError
from studio.settings import Settings
from studio.terminal import Terminal

HELP = """\
Engines are what a checkpoint becomes for one kind of GPU. They are built once and kept.

  python launcher.py engines build --size 512x512 --size 768x512
  python launcher.py engines build --size 256x256..768x768 --batch 1..4
  python launcher.py engines build --for 8.9          (for another machine, with TensorRT-RTX)
  python launcher.py engines export /mnt/shared/engines
  python launcher.py --engine-sources /mnt/shared/engines"""

AddKnobs = Callable[[Any, Sequence[str]], None]
Run = Callable[[argparse.Namespace, Settings, Terminal], int]


def add(parser: argparse.ArgumentParser, add_knobs: AddKnobs) -> None:
    """Describe the commands to the command line."""
    parser.description = HELP
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Run, help: str, knobs: Sequence[str] = ()) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=help, description=help.capitalize() + "."
        )
        made.set_defaults(run=run)
        add_knobs(made, (*knobs, "cache_dir"))
        return made

    listing = command("list", list_engines, "what there is, for what, and how large")
    listing.add_argument("--json", action="store_true", help="print it as JSON")

    build = command(
        "build", build_engines, "build what is missing", ("model", "engine", "gpu", "engine_sources")
    )
    build.add_argument("--size", action="append", help="WIDTHxHEIGHT in pixels, or LOW..HIGH of two of them")
    build.add_argument("--batch", default="1", help="how many pictures at once: 1, or 1..4 (1)")
    build.add_argument(
        "--for", dest="capability", metavar="8.9", help="the compute capability of another machine"
    )
    build.add_argument(
        "--level", type=int, choices=range(6), default=DEFAULT_LEVEL, help="optimization level (3)"
    )
    build.add_argument("--refit", action="store_true", help="let the weights be replaced later")

    command("verify", verify, "check every engine; set aside what is damaged")

    prune = command("prune", prune_engines, "delete what is of no use: set-aside, abandoned, other versions'")
    prune.add_argument("--all", action="store_true", help="delete every engine")

    export = command("export", export_engines, "copy engines to a folder that other machines can fetch from")
    export.add_argument("folder", type=Path)
    export.add_argument("names", nargs="*", help="which (all)")

    bring = command("import", import_engines, "take every engine of a place into the cache")
    bring.add_argument("places", nargs="+", help="a folder, an http(s) address, or hf:owner/repository")


def list_engines(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print the engines."""
    cache = EngineCache(settings.cache_dir)
    entries = cache.entries()
    if asked.json:
        facts = [
            {"name": one.key.name, "size": one.size, "key": asdict(one.key), "facts": asdict(one.facts)}
            for one in entries
        ]
        sys.stdout.write(json.dumps(facts, indent=1) + "\n")
        return 0
    for entry in entries:
        sys.stdout.write("  ".join(_cells(entry)) + "\n")
    others = {
        "exports": "onnx",
        "compiled kernels": "compiled",
        "set aside": "quarantine",
        "downloads": "downloads",
    }
    sizes = [f"{name} {_size(weigh(cache.root / folder))}" for name, folder in others.items()]
    total = sum(entry.size for entry in entries)
    sys.stdout.write(f"{len(entries)} engines, {_size(total)}; {', '.join(sizes)}; in {cache.root}\n")
    return 0


def _cells(entry: Entry) -> list[str]:
    key, facts = entry.key, entry.facts
    where = key.device or f"any GPU of compute {key.capability}"
    speed = f"{facts.latency_ms:.2f} ms" if facts.latency_ms is not None else "not tried"
    size = "any size" if key.component == "text_encoder" else str(key.profile)
    rejected = f"NOT USED: {facts.rejected}" if facts.rejected else ""
    cells = [
        f"{key.component:12}",
        f"{size:24}",
        f"{key.flavour} {key.version} {key.precision}",
        where,
        f"{_size(entry.size):>8}",
        f"{speed:>9}",
        f"built in {facts.build_seconds:.0f} s, {facts.origin}",
        facts.checkpoint,
        rejected,
    ]
    return [cell for cell in cells if cell]


def build_engines(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Fetch or build what is missing for the sizes asked for."""
    from studio.checkpoint import resolve
    from studio.engines.export import export

    workshop = _workshop(asked, settings)
    checkpoint = resolve(settings.model)
    width, height = checkpoint.default_size
    profiles = [_profile(size, asked.batch) for size in asked.size or [f"{width}x{height}"]]
    with terminal.stage("Checkpoint") as stage:
        target = workshop.target
        folder = export(
            checkpoint,
            settings.cache_dir,
            stage.report,
            precision=target.precision,
            wide_precision=target.wide_precision,
        )
        stage.outcome = f"{checkpoint.name}, {target.precision}"
    for profile in profiles:
        for order in workshop.orders(folder, profile):
            with terminal.stage(order.component.name) as stage:
                entry, notes = workshop.obtain(order, stage.report)
                stage.outcome = f"{profile}: {_size(entry.size)}, {entry.facts.origin}"
            for note in notes:
                terminal.line(note)
    return 0


def _workshop(asked: argparse.Namespace, settings: Settings) -> Workshop:
    places = [place(named) for named in settings.engine_sources]
    more = {"places": places, "level": asked.level, "refit": asked.refit}
    cache = EngineCache(settings.cache_dir)
    if asked.capability:
        found = installed().get(TENSORRT_RTX)
        if found is None:
            raise BuildError(
                "Engines for another machine are built with TensorRT-RTX, which is not installed.",
                hint="python launcher.py install tensorrt-rtx",
            )
        return Workshop(cache, Target(TENSORRT_RTX, found.version, asked.capability, "fp16"), **more)
    here = machine.look(settings)
    if here.gpu is None or not here.engine.flavour:
        raise BuildError(
            f"There is nothing to build an engine for: {here.engine.flavour_reason}.",
            hint="To build for another machine, name its compute capability: --for 8.9.",
        )
    if here.engine.missing:
        raise BuildError(f"{here.engine.flavour} is not installed.", hint=here.engine.missing)
    return Workshop(cache, Target.of(here.gpu, here.engine), here.gpu, **more)


def _profile(size: str, batch: str) -> Profile:
    """``512x512`` or ``256x256..768x768``, and ``1`` or ``1..4``. Raises SettingsError."""
    sizes = re.fullmatch(r"(\d+)x(\d+)(?:\.\.(\d+)x(\d+))?", size)
    counts = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", batch)
    if sizes is None or counts is None:
        wrong = size if sizes is None else batch
        raise SettingsError(
            f"{wrong!r} is not a size or batch.", hint="Such as 512x512, 256x256..768x768; 1, 1..4."
        )
    low = [int(number) for number in sizes.groups()[:2]]
    high = [int(number) for number in sizes.groups()[2:] if number] or low
    if any(number % PIXELS_PER_LATENT or number == 0 for number in low + high):
        raise SettingsError(f"{size!r} is not a size.", hint="Width and height are multiples of 8.")
    (width, height) = (
        (a // PIXELS_PER_LATENT, b // PIXELS_PER_LATENT) for a, b in zip(low, high, strict=True)
    )
    pictures = (int(counts[1]), int(counts[2] or counts[1]))
    if any(span[0] > span[1] for span in (width, height, pictures)) or pictures[0] == 0:
        raise SettingsError(f"{size!r}, batch {batch!r} is an empty range.", hint="The smaller comes first.")
    return Profile(pictures, height, width)


def verify(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Check every checksum; 1 when something was set aside."""
    cache = EngineCache(settings.cache_dir)
    sound, unsound = cache.verify()
    for line in unsound:
        terminal.line(f"Set aside {line}")
    terminal.line(f"{len(sound)} engines are sound.")
    return int(bool(unsound))


def prune_engines(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Delete what is of no use and say how much that freed."""
    cache = EngineCache(settings.cache_dir)
    have = {flavour: found.version for flavour, found in installed().items()}
    freed = 0
    for entry in cache.entries():
        outdated = entry.key.flavour in have and have[entry.key.flavour] != entry.key.version
        if asked.all or outdated or entry.facts.rejected:
            freed += cache.remove(entry.folder)
            terminal.line(f"Deleted {entry.key.name}")
    for leftover in _leftovers(cache):
        freed += weigh(leftover)
        shutil.rmtree(leftover, ignore_errors=True)
    terminal.line(f"Freed {_size(freed)}.")
    return 0


def _leftovers(cache: EngineCache) -> Iterable[Path]:
    yield from (cache.quarantine, cache.root / "downloads", cache.root / "logs")


def export_engines(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Copy engines to a folder, with an index."""
    entries = EngineCache(settings.cache_dir).entries()
    chosen = [entry for entry in entries if not asked.names or entry.key.name in asked.names]
    unknown = set(asked.names) - {entry.key.name for entry in entries}
    if unknown or not chosen:
        raise SettingsError(
            f"There is no engine {', '.join(sorted(unknown))}."
            if unknown
            else "There is no engine to export.",
            hint="`engines list` shows what there is (--json with full names).",
        )
    try:
        index.export(chosen, asked.folder)
    except Unfit as unfit:
        raise CacheError(
            f"An engine is damaged: {unfit}.", hint="Run `engines verify`, and build it again."
        ) from unfit
    terminal.line(
        f"{len(chosen)} engines, {_size(sum(entry.size for entry in chosen))}, are in {asked.folder}."
    )
    return 0


def import_engines(asked: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Take engines from places."""
    with terminal.stage("Import") as stage:
        taken = import_all(
            [place(named) for named in asked.places], EngineCache(settings.cache_dir), stage.report
        )
        stage.outcome = f"{len(taken)} engines, {_size(sum(entry.size for entry in taken))}"
    return 0


def weigh(folder: Path) -> int:
    """Bytes of everything in ``folder``; 0 where it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

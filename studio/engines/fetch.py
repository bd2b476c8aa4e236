"""Takes an engine from a place that the user named, instead of building it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio.engines import trial
from studio.engines.cache import EngineCache, told
from studio.engines.entry import Entry, Unfit, plan_name
from studio.engines.index import Offer, parse_index
from studio.engines.order import Order
from studio.engines.places import Place
from studio.engines.trial import HERE, Python
from studio.engines.verified import sha256
from studio.errors import FetchError
from studio.report import Report, silent

# What may differ: TensorRT itself loads a plan of another card of the same capability, with a warning.
TOLERATED = ("device", "level")


@dataclass(frozen=True)
class Fetched:
    """An engine taken, or None; and what a person should know of it, such as why not."""

    entry: Entry | None
    notes: tuple[str, ...]


def fetch(
    order: Order,
    places: Sequence[Place],
    cache: EngineCache,
    report: Report = silent,
    cancel: threading.Event | None = None,
    *,
    python: Python = HERE,
) -> Fetched:
    """The engine of ``order``, from the first place that has it and where it proves sound.

    Raises BuildCancelled, and CacheError when this machine's disk refuses.
    """
    cancel = cancel or threading.Event()
    notes: list[str] = []
    with cache.alone(order.key, report, cancel):
        found = cache.look_up(order.key)
        if isinstance(found, Entry):
            return Fetched(found, ())
        for place in places:
            try:
                entry, note = _from(place, order, cache, report, cancel, python)
                notes += [note] if note else []
                if entry is not None:
                    return Fetched(entry, tuple(notes))
            except FetchError as error:
                notes.append(str(error))
    return Fetched(None, tuple(notes))


def _from(
    place: Place, order: Order, cache: EngineCache, report: Report, cancel: threading.Event, python: Python
) -> tuple[Entry | None, str]:
    report(f"Looking for the {order.title} at {place.name}", None)
    offers = [offer for offer in parse_index(place.index(), place.name) if _same_work(offer, order)]
    fit = [offer for offer in offers if _fits(offer, order)]
    if not fit:
        nearest = min(
            (order.key.differences(offer.key) for offer in offers), key=len, default=["it has none"]
        )
        return None, f"{place.name} has no {order.title} for this machine: {', '.join(nearest)}."
    offer = min(fit, key=lambda each: len(order.key.differences(each.key)))
    with cache.staging(order.key) as folder:
        plan = folder / plan_name(order.key)
        download(place, offer, cache, plan, report, cancel)
        latency = _try(order, plan, place, cache, python)
        facts = replace(
            offer.facts,
            origin=f"fetched from {place.name}",
            latency_ms=latency,
            driver=order.gpu.driver if order.gpu else "",
            rejected="",
        )
        entry = cache.keep(folder, order.key, facts)
    if offer.key.device == order.key.device:
        return entry, ""
    return entry, (
        f"The {order.title} from {place.name} was made on another card ({offer.key.device}): it runs here, "
        "perhaps slower than one built here."
    )


def _same_work(offer: Offer, order: Order) -> bool:
    return (offer.key.component, offer.key.onnx) == (order.key.component, order.key.onnx)


def _fits(offer: Offer, order: Order) -> bool:
    forgiven = {part: getattr(order.key, part) for part in TOLERATED}
    return replace(offer.key, **forgiven) == order.key


def download(
    place: Place, offer: Offer, cache: EngineCache, plan: Path, report: Report, cancel: threading.Event
) -> None:
    """Have ``offer``'s plan as ``plan``, whole and checked; goes on where an earlier attempt was cut off.

    Raises FetchError, BuildCancelled and CacheError.
    """
    part = cache.root / "downloads" / offer.sha256
    with told("The engine could not be downloaded"):
        part.parent.mkdir(parents=True, exist_ok=True)
        place.fetch(
            offer.file,
            offer.size,
            part,
            lambda done: report(f"Fetching the {offer.key.component} engine", min(1.0, done / offer.size)),
            cancel,
        )
        size = part.stat().st_size
        if size < offer.size:
            raise FetchError(
                f"Only {size} of {offer.size} bytes of {offer.file} came from {place.name}.",
                state="They are kept.",
                hint="The next start goes on from there.",
            )
        if size > offer.size or sha256(part) != offer.sha256:
            part.unlink()
            wrong = "size" if size > offer.size else "checksum"
            raise FetchError(
                f"{offer.file} from {place.name} has another {wrong} than its index says.",
                state="It was thrown away.",
                hint="Ask whoever keeps that place, or leave it out of --engine-sources.",
            )
        part.replace(plan)


def _try(order: Order, plan: Path, place: Place, cache: EngineCache, python: Python) -> float | None:
    try:
        return trial.time_plan(order, plan, cache, python)
    except Unfit as unfit:
        raise FetchError(
            f"The {order.title} from {place.name} does not run here: {unfit}.", state="It was thrown away."
        ) from unfit


def import_all(places: Iterable[Place], cache: EngineCache, report: Report = silent) -> list[Entry]:
    """Take every engine of the places into the cache, whatever machine it is for. Raises FetchError."""
    cancel = threading.Event()
    taken = []
    for place in places:
        for offer in parse_index(place.index(), place.name):
            with cache.alone(offer.key, report, cancel):
                found = cache.look_up(offer.key)
                if not isinstance(found, Entry):
                    with cache.staging(offer.key) as folder:
                        download(place, offer, cache, folder / plan_name(offer.key), report, cancel)
                        facts = replace(offer.facts, origin=f"imported from {place.name}")
                        found = cache.keep(folder, offer.key, facts)
                taken.append(found)
    return taken

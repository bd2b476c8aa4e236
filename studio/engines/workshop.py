"""Where engines for one machine come from: the cache, else a place the user named, else a build."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studio.engines import build, fetch, trial
from studio.engines.cache import EngineCache
from studio.engines.entry import Entry, Unfit
from studio.engines.key import DEFAULT_LEVEL, Profile, Target
from studio.engines.order import Order, orders
from studio.engines.places import Place
from studio.engines.trial import HERE, Python
from studio.gpu import Gpu
from studio.report import Report, silent


def never() -> bool:
    """Nothing else needs the GPU."""
    return False


@dataclass(frozen=True)
class Workshop:
    """Makes or finds engines for ``target``. ``gpu`` is None when they are for another machine."""

    cache: EngineCache
    target: Target
    gpu: Gpu | None = None
    places: Sequence[Place] = ()
    level: int = DEFAULT_LEVEL
    refit: bool = False
    python: Python = HERE  # what starts the interpreter that has the TensorRT

    def orders(self, model_folder: Path, profile: Profile) -> list[Order]:
        """What ``profile`` needs of the checkpoint exported to ``model_folder``, a component each."""
        return orders(model_folder, self.target, profile, self.gpu, self.level, self.refit)

    def built(self, model_folder: Path) -> dict[str, list[Entry]]:
        """The engines of this checkpoint that were made for this target before, by component: of every
        size, each checked, and tried again where the driver has changed since."""
        found: dict[str, list[Entry]] = {}
        entries = self.cache.entries()
        for order in self.orders(model_folder, Profile.fixed(1, 1, 1)):
            for entry in entries:
                own = replace(order, key=replace(order.key, profile=entry.key.profile))
                if own.key != entry.key or entry.facts.rejected:
                    continue
                checked = self.cache.look_up(entry.key)
                if isinstance(checked, Entry) and self._still_runs(own, checked):
                    found.setdefault(order.component.name, []).append(checked)
        return found

    def _still_runs(self, order: Order, entry: Entry) -> bool:
        if self.gpu is None or entry.facts.driver == self.gpu.driver:
            return True
        try:
            trial.time_plan(order, entry.plan, self.cache, self.python)
        except Unfit as unfit:
            self.cache.set_engine_aside(entry.folder, f"since the driver is {self.gpu.driver}, {unfit}")
            return False
        self.cache.note(entry, driver=self.gpu.driver)
        return True

    def obtain(
        self,
        order: Order,
        report: Report = silent,
        cancel: threading.Event | None = None,
        busy: Callable[[], bool] = never,
    ) -> tuple[Entry, tuple[str, ...]]:
        """The engine of ``order`` and what a person should know of where it came from.

        While ``busy`` says so, a build stands still. Raises BuildError, BuildCancelled and CacheError.
        """
        notes: tuple[str, ...] = ()
        if self.places:
            fetched = fetch.fetch(order, self.places, self.cache, report, cancel, python=self.python)
            if fetched.entry is not None:
                return fetched.entry, fetched.notes
            notes = fetched.notes
        return build.build(order, self.cache, report, cancel, python=self.python, busy=busy), notes

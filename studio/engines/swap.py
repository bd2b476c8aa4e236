"""Start now, swap later: the studio draws on what it has while better engines are made and proven."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import TracebackType
from typing import Protocol

from studio.engines import trial
from studio.engines.cache import EngineCache
from studio.engines.components import DENOISER
from studio.engines.entry import Entry, Unfit
from studio.engines.key import Profile
from studio.engines.order import Order
from studio.engines.trial import Disturbed, Outcome, Python
from studio.errors import BuildCancelled, EngineError, StudioError
from studio.report import Report
from triton_models.diffusion.manifest import Engine

logger = logging.getLogger(__name__)

MOST_PIXEL_DIFFERENCE = 4.0  # mean over a picture, of 255: as for the CPU's engines
MOST_NUMBER_DIFFERENCE = 0.05  # of embeddings and latents, relative; fp16 was measured at 0.0075
SECONDS_BETWEEN_LOOKS = 0.05
QUIET_SECONDS = 1.0  # without drawing before the GPU counts as idle


class Maker(Protocol):
    """Where engines come from: a Workshop."""

    @property
    def cache(self) -> EngineCache: ...

    @property
    def python(self) -> Python: ...

    def orders(self, model_folder: Path, profile: Profile) -> list[Order]: ...

    def obtain(
        self, order: Order, report: Report, cancel: threading.Event, busy: Callable[[], bool]
    ) -> tuple[Entry, tuple[str, ...]]: ...


class Served(Protocol):
    """What a server serves: a Repository."""

    @property
    def engines(self) -> Mapping[str, Sequence[Engine]]: ...

    @property
    def model_folder(self) -> PurePath: ...


class Service(Protocol):
    """A server that components can be swapped in: a Supervisor."""

    @property
    def repository(self) -> Served: ...

    def swap(self, component: str, engines: Sequence[Engine]) -> None: ...


@dataclass(frozen=True)
class Status:
    """What the page shows of the work: a sentence (empty when there is none) and how far it is, 0 to 1."""

    message: str = ""
    fraction: float | None = None


class Swapper:
    """Makes the engines of every profile that is wanted, one after another, in a thread of its own.

    Nothing runs on the GPU while ``busy`` says that a picture is being drawn.
    """

    def __init__(
        self,
        maker: Maker,
        export: Callable[[Report], Path],
        services: Sequence[Service],
        busy: Callable[[], bool],
        tell: Callable[[str], None] = logger.info,
    ) -> None:
        self.status = Status()
        self._maker = maker
        self._export = export  # the checkpoint in the engines' precision
        self._services = services
        self._busy = busy
        self._tell = tell
        self._cancel = threading.Event()
        self._wanted: queue.SimpleQueue[Profile | None] = queue.SimpleQueue()
        self._known: set[Profile] = set()
        self._thread = threading.Thread(target=self._work, name="swapper", daemon=True)

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel.set()
        self._wanted.put(None)
        self._thread.join()

    def want(self, profile: Profile) -> None:
        """Have the engines of ``profile`` made as soon as the GPU is idle, unless they are under way."""
        if profile not in self._known:
            self._known.add(profile)
            self._wanted.put(profile)

    def offer(self, batch: int, height: int, width: int) -> Profile | None:
        """What to want for pictures of this size (in latents) to be faster; None where nothing helps."""
        profile = Profile.fixed(batch, height, width)
        made = [engine for engine in self._serving(DENOISER.name) if engine.key]
        served = any(engine.admits(batch, height, width) for engine in made)
        return None if served or profile in self._known else profile

    def _work(self) -> None:
        while (profile := self._wanted.get()) is not None and not self._cancel.is_set():
            try:
                orders = self._maker.orders(self._export(self._report), profile)
                for order in sorted(orders, key=lambda each: each.component != DENOISER):  # it matters most
                    with self._told(profile):
                        self._make(order)
            except BuildCancelled:
                break
            except StudioError as error:  # of the export
                self._fail(profile, error)
            self.status = Status()

    @contextmanager
    def _told(self, profile: Profile) -> Iterator[None]:
        """What goes wrong with one engine is told, and the next is made all the same."""
        try:
            yield
        except BuildCancelled:
            raise
        except StudioError as error:
            self._fail(profile, error)
        except Exception as error:
            logger.exception("An engine for %s was given up", profile)
            sentence = f"An engine for {profile} was given up ({error}); the log says more."
            self._fail(profile, EngineError(sentence, state="Pictures are made as before."))

    def _fail(self, profile: Profile, error: StudioError) -> None:
        logger.warning("No engine for %s: %s", profile, error)
        self._known.discard(profile)  # it may be asked for again
        self._tell(str(error))

    def _report(self, message: str, fraction: float | None = None) -> None:
        self.status = Status(message, fraction)

    def _serving(self, component: str) -> Sequence[Engine]:
        return self._services[0].repository.engines.get(component, ())

    def _make(self, order: Order) -> None:
        """Have one engine made, proven and served."""
        component = order.component.name
        if any(engine.key == order.key.name for engine in self._serving(component)):
            return
        self._wait_until_idle()
        entry, notes = self._maker.obtain(order, self._report, self._cancel, self._busy)
        for note in notes:
            self._tell(note)
        if not entry.facts.rejected:
            entry = self._judge(order, entry)
        if entry.facts.rejected:
            self._tell(f"The new {order.title} is not used: {entry.facts.rejected}.")
            return
        for service in self._services:
            service.swap(component, [entry.engine, *service.repository.engines.get(component, ())])
        self._tell(f"The {order.title} for {order.key.profile} is in service.")

    def _judge(self, order: Order, entry: Entry) -> Entry:
        """Compare the engine with the one it would replace, and note the verdict."""
        profile = order.key.profile
        size = profile.batch[0], profile.height[1], profile.width[1]
        serving = self._serving(order.component.name)
        current = next((engine for engine in serving if engine.admits(*size)), None)
        if current is None:
            return entry
        self._report(f"Comparing the new {order.title} with the one in use")
        there = Path(self._services[0].repository.model_folder) / current.file
        pair = [entry.engine, replace(current, file=str(there))]
        cache = self._maker.cache
        try:
            outcome = self._undisturbed(order, pair)
        except Unfit as unfit:
            return cache.note(entry, rejected=str(unfit))
        return cache.note(entry, latency_ms=outcome.milliseconds[0], rejected=objection(outcome, current))

    def _undisturbed(self, order: Order, pair: Sequence[Engine]) -> Outcome:
        """The outcome of a trial during which nobody drew."""
        maker = self._maker
        while True:
            self._wait_until_idle()
            try:
                return trial.run(order, pair, maker.cache, maker.python, disturbed=self._is_wanted)
            except Disturbed:
                continue

    def _is_wanted(self) -> bool:
        return self._busy() or self._cancel.is_set()

    def _wait_until_idle(self) -> None:
        """Return when nobody has drawn for a moment. Raises BuildCancelled."""
        quiet = 0.0
        while quiet < QUIET_SECONDS:
            if self._cancel.wait(SECONDS_BETWEEN_LOOKS):
                raise BuildCancelled("The studio is closing.")
            quiet = 0.0 if self._busy() else quiet + SECONDS_BETWEEN_LOOKS


def objection(outcome: Outcome, current: Engine) -> str:
    """Why the first engine of ``outcome`` must not replace the second; empty when it may."""
    new, old = outcome.milliseconds
    (apart,) = outcome.differences
    if apart.pixels > MOST_PIXEL_DIFFERENCE:
        return f"its pictures differ by {apart.pixels:.1f} of 255 from those of {current.label}"
    if apart.numbers > MOST_NUMBER_DIFFERENCE:
        return f"its numbers differ by {apart.numbers:.0%} from those of {current.label}"
    if new > old:
        return f"it is slower than {current.label} ({new:.1f} ms against {old:.1f})"
    return ""

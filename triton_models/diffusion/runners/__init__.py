"""The engines of one component: picks the first that can do the job, and remembers why others could not."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..manifest import Engine, EngineSet
from .base import Array, EngineUnusable, Floats, OpenRunner, Runner, Steps

__all__ = [
    "Array",
    "EngineUnusable",
    "Engines",
    "Floats",
    "Loaded",
    "NoEngine",
    "Runner",
    "Steps",
    "not_used",
]

# flavour → the module beside this one that runs it, imported only where such an engine is listed
_MODULES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
}


PIXELS_PER_LATENT = 8


class NoEngine(Exception):
    """No engine of the set admits the size; the message says which sizes there are."""


@dataclass(frozen=True)
class Loaded:
    """An engine, what runs it, and how many pictures it is to take at once."""

    engine: Engine
    runner: Runner
    batch: int


class Engines:
    """The engines of an EngineSet, each loaded when it is first needed."""

    def __init__(self, engine_set: EngineSet) -> None:
        self._set = engine_set
        self._runners: dict[Engine, Runner] = {}
        self.unusable: dict[Engine, str] = {}  # and the reason

    def pick(
        self, batch: int, height: int, width: int, without: Mapping[Engine, str] | None = None
    ) -> Loaded:
        """The first usable engine for ``batch`` pictures of ``height`` × ``width`` latents.

        ``without`` are engines that broke down over this work, and how.
        An engine for fewer pictures will do: the work is then done in slices. Of engines alike but
        for their batch, the one with the largest slice is taken. Raises NoEngine.
        """
        while True:
            out = {**self.unusable, **(without or {})}
            left = [engine for engine in self._set.engines if engine not in out]
            able = [engine for engine in left if engine.admits(_slice(engine, batch), height, width)]
            if not left:
                raise EngineUnusable(
                    " ".join(["No engine is left.", *(not_used(engine, why) for engine, why in out.items())])
                )
            if not able:
                raise NoEngine(f"there are engines for {', '.join(dict.fromkeys(map(_sizes, left)))}")
            engine = max((e for e in able if e.label == able[0].label), key=lambda e: _slice(e, batch))
            runner = self._load(engine)
            if runner is not None:
                return Loaded(engine, runner, _slice(engine, batch))

    def set_aside(self, engine: Engine, reason: str) -> None:
        """Use ``engine`` no more."""
        self.unusable[engine] = reason
        self._runners.pop(engine, None)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each engine that could not be used."""
        return [not_used(engine, reason) for engine, reason in self.unusable.items()]

    def _load(self, engine: Engine) -> Runner | None:
        if engine not in self._runners:
            try:
                self._runners[engine] = self._open_making_room(engine)
            except EngineUnusable as reason:
                self.set_aside(engine, str(reason))
            except Exception as error:  # whatever a runtime raises, there are other engines
                self.set_aside(engine, f"it could not be loaded ({type(error).__name__}: {error})")
        return self._runners.get(engine)

    def _open_making_room(self, engine: Engine) -> Runner:
        """Each size keeps its own weights on the GPU: where one does not fit, the others go."""
        try:
            return self._open(engine)
        except EngineUnusable:
            if not self._runners:
                raise
        self._runners.clear()
        gc.collect()
        return self._open(engine)

    def _open(self, engine: Engine) -> Runner:
        file = Path(self._set.model_folder) / engine.file
        if not file.is_file():
            raise EngineUnusable(f"its file {file.name} is missing")
        if engine.flavour not in _MODULES:
            raise EngineUnusable("this version of the studio does not know its flavour")
        try:
            module = importlib.import_module(f".{_MODULES[engine.flavour]}", __package__)
        except ImportError as error:
            raise EngineUnusable(f"its runtime is not installed ({error})") from error
        load: OpenRunner = module.load
        cache_folder = Path(self._set.cache_folder) if self._set.cache_folder else None
        return load(file, engine.precision, self._set.threads, cache_folder)


def not_used(engine: Engine, reason: str) -> str:
    """The sentence for a person."""
    return f"The engine {engine.label} is not used: {reason}."


def _slice(engine: Engine, batch: int) -> int:
    """How many of ``batch`` pictures ``engine`` takes at once."""
    return batch if engine.batch is None else min(batch, engine.batch[1])


def _sizes(engine: Engine) -> str:
    """In pixels, width first."""
    spans = (engine.width or (1, 1), engine.height or (1, 1))
    return " × ".join(_span(low * PIXELS_PER_LATENT, high * PIXELS_PER_LATENT) for low, high in spans)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"

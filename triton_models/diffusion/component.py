"""A component whose graph is run once per request: the text encoder, and both halves of the VAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .manifest import Engine, EngineSet, ModelInfo
from .runners import Array, Engines


@dataclass(frozen=True)
class _Graph:
    """A graph's outputs, and from its input's shape what an engine is picked by: batch, height, width."""

    outputs: tuple[str, ...]
    size: Callable[[tuple[int, ...]], tuple[int, int, int]]


_GRAPHS = {
    "text_encoder": _Graph(("embeddings",), lambda shape: (shape[0], 1, 1)),
    "vae_encoder": _Graph(("mean", "std"), lambda shape: (shape[0], shape[1] // 8, shape[2] // 8)),
    "vae_decoder": _Graph(("image",), lambda shape: (shape[0], shape[2], shape[3])),
}


class Component:
    """Runs one component on the engines of its set."""

    def __init__(self, engine_set: EngineSet) -> None:
        self._graph = _GRAPHS[engine_set.component]
        self._engines = Engines(engine_set)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs, made in slices where the engine takes fewer than asked for.

        An engine that breaks down gives way to the next. Raises NoEngine,
        and EngineUnusable where none is left.
        """
        (name, array), *_ = inputs.items()
        parts: list[dict[str, Array]] = []
        broken: dict[Engine, str] = {}
        first = 0
        while first < len(array):
            batch, height, width = self._graph.size(array.shape)
            loaded = self._engines.pick(batch - first, height, width, without=broken)
            try:
                part = {name: array[first : first + loaded.batch]}
                parts.append(loaded.runner.run(part, self._graph.outputs))
            except Exception as error:  # each runtime raises its own, and they share no base class
                broken[loaded.engine] = str(error)
                continue
            first += loaded.batch
        if len(parts) == 1:
            return parts[0]
        return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}


def example(component: str, info: ModelInfo) -> dict[str, Array]:
    """An input of the checkpoint's own size, to load and warm a component with."""
    height, width = info.default_height, info.default_width
    latents = (1, info.latent_channels, height // info.vae_scale_factor, width // info.vae_scale_factor)
    if component == "text_encoder":
        return {"input_ids": np.zeros((2, info.max_tokens), np.int32)}
    if component == "vae_encoder":
        return {"image": np.zeros((1, height, width, 3), np.uint8)}
    return {"latents": np.zeros(latents, np.float32)}

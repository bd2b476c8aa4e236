"""What every engine can do, whatever runtime is under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..manifest import STATE_SLOTS
from ..samplers import Row

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class EngineUnusable(Exception):
    """An engine that cannot be loaded or run here; the message is the reason, as a clause."""


class Steps(Protocol):
    """The denoiser between two steps: ``state`` stays with the engine, only scalars go in.

    ``start`` enqueues one step and returns at once; ``wait`` ends it. Between the two the host is free.
    Up to ``ahead`` further steps may be started before the first is waited for.
    """

    ahead: int

    def start(self, row: Row, noise: Floats | None) -> None:
        """Begin one step; ``noise`` is [N, 4, h, w], needed where ``row.draws_noise``."""

    def wait(self) -> Floats:
        """The foreseen latents [N, 4, h, w] of the oldest step started; valid until the next ``start``."""

    def latents(self) -> Floats:
        """A copy of the current latents [N, 4, h, w]."""


class Runner(Protocol):
    """An engine of one component, loaded."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """The named outputs of the graph. The arrays are the caller's to keep."""

    def steps(self, latents: Floats, embeddings: Floats, guidance: Floats) -> Steps:
        """Begin a walk: latents [N, 4, h, w], embeddings [U·N, 77, D], guidance [N, U·N].

        One walk at a time: beginning another ends the one before it.
        """


class OpenRunner(Protocol):
    """What a runner's module offers as ``load``. Raises EngineUnusable with the reason."""

    def __call__(self, file: Path, precision: str, threads: int, cache_folder: Path | None) -> Runner: ...


class StepBuffers:
    """Host buffers of one walk: two states to write in turn, and everything else the graph reads."""

    def __init__(self, latents: Floats, embeddings: Floats, guidance: Floats) -> None:
        self.states = tuple(np.zeros((STATE_SLOTS, *latents.shape), np.float32) for _ in range(2))
        self.states[0][0] = latents
        self.current = 0  # which of the two states is read next
        self.inputs: dict[str, Floats] = {
            "embeddings": np.array(embeddings, np.float32),
            "timestep": np.zeros(1, np.float32),
            "input_scale": np.zeros(1, np.float32),
            "guidance": np.array(guidance, np.float32),
            "update": np.zeros((STATE_SLOTS, STATE_SLOTS + 2), np.float32),
            "denoised_scale": np.zeros(2, np.float32),
            "noise": np.zeros(latents.shape, np.float32),
        }
        self.denoised = np.zeros(latents.shape, np.float32)

    def set_row(self, row: Row, noise: Floats | None) -> None:
        """Set the scalars of one step."""
        self.inputs["timestep"][0] = row.timestep
        self.inputs["input_scale"][0] = row.input_scale
        self.inputs["update"][:] = row.update
        self.inputs["denoised_scale"][:] = row.denoised_scale
        self.inputs["noise"][:] = 0 if noise is None else noise

    def swap(self) -> None:
        """What was written is read next."""
        self.current ^= 1

    def latents(self) -> Floats:
        """A copy of the latents that the last step wrote."""
        latents: Floats = self.states[self.current][0].copy()
        return latents

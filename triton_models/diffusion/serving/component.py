"""Serves the text encoder and both halves of the VAE."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..component import Component, example
from ..manifest import EngineSet, ModelInfo
from ..runners import NoEngine
from . import triton


class ComponentModel:
    """A unary model whose tensors are exactly the graph's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        engine_set = EngineSet.load(triton.version_folder(args))
        info = ModelInfo.load(engine_set.info_folder)
        self._component = Component(engine_set)
        with contextlib.suppress(NoEngine):  # there are engines for other sizes
            self._component.run(example(engine_set.component, info))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            return triton.response(self._component.run(triton.tensors_of(request)))
        except Exception as error:  # whatever it is, it must end this request and not the model
            return triton.failure(error)

"""Triton's tensors and errors, to and from ours."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from ..denoise import Cancelled
from ..request import InvalidRequest
from ..runners import Array, EngineUnusable, NoEngine

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class ModelFailed(Exception):
    """A model that a pipeline called answered with an error; ``code`` is Triton's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def version_folder(args: Mapping[str, str]) -> Path:
    """Where the model that ``initialize(args)`` is about lies."""
    return Path(args["model_repository"]) / args["model_version"]


def tensors_of(request: Any) -> dict[str, Array]:
    """The inputs of a request, copied: Triton takes its memory back."""
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}


def response(outputs: Mapping[str, Array]) -> Any:
    """An answer with these tensors."""
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()]
    )


def failure(error: Exception) -> Any:
    """An answer with what went wrong; a fault of ours goes to the server's log with its traceback."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(*_describe(error)))


def log(error: Exception) -> None:
    """Write the error, with its traceback, into the server's log."""
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))


def text(value: str) -> Array:
    """A string tensor [1]."""
    return np.array([value.encode("utf-8")], np.object_)


def call(model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    """One answer of another model. Raises ModelFailed."""
    return _outputs_of(_request(model, inputs, outputs).exec())


def stream(model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Every answer of a decoupled model, each with the outputs it chose to send. Raises ModelFailed."""
    for answer in _request(model, inputs, outputs).exec(decoupled=True):
        got = _outputs_of(answer)
        if got:
            yield got


def _request(model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Any:
    return pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=list(outputs),
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
    )


def _outputs_of(answer: Any) -> dict[str, Array]:
    if answer.has_error():
        raise ModelFailed(answer.error().message(), answer.error().code())
    return {tensor.name(): tensor.as_numpy() for tensor in answer.output_tensors()}


def _describe(error: Exception) -> tuple[str, int]:
    codes = pb_utils.TritonError
    match error:
        case InvalidRequest():
            return str(error), codes.INVALID_ARG
        case NoEngine():
            return f"This size cannot be drawn here: {error}.", codes.INVALID_ARG
        case Cancelled():
            return "The request was cancelled.", codes.CANCELLED
        case ModelFailed():
            return str(error), error.code
        case EngineUnusable():
            return str(error), codes.INTERNAL
    log(error)
    return f"{type(error).__name__}: {error}", codes.INTERNAL

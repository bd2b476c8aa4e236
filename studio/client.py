"""The connection to Triton: a request goes in, its steps and its pictures come out.

The only module that knows tritonclient.
"""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from studio.errors import Cancelled, RequestError, ServerError, ServerLostError
from studio.request import ImageRequest, Pixels, Progress, Span
from triton_models.diffusion import fields
from triton_models.diffusion.fields import Field

TEXT_TO_IMAGE = "pipeline_text_to_image_stream"
IMAGE_TO_IMAGE = "pipeline_image_to_image_stream"

CANCEL_CHECK_SECONDS = 0.05
CALL_SECONDS = 10.0  # for calls that do no work
LOAD_SECONDS = 900.0

# The proxy of an http_proxy variable is not on the way to a server on this machine.
_CHANNEL = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_Answer = tuple[InferResult | None, InferenceServerException | None]


@dataclass(frozen=True)
class RawResult:
    """A request's pictures as the server sent them. ``images`` is [num_images, height, width, 3] RGB."""

    images: Pixels
    seeds: tuple[int, ...]
    spans: tuple[Span, ...]  # in seconds from the request's arrival at the pipeline
    engine: str
    warnings: tuple[str, ...] = ()


class TritonClient:
    """A connection to the server at ``address``. Calls may come from several threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = self._connect()
        self._idle: queue.LifoQueue[_Stream] = queue.LifoQueue(maxsize=1)

    def generate(self, request: ImageRequest, cancel: threading.Event) -> Iterator[Progress | RawResult]:
        """Yield Progress as the server works, then the RawResult.

        Raises Cancelled within a step of ``cancel`` being set, RequestError for a field that cannot be
        drawn, ServerLostError when the server went away, ServerError for any other failure of it.
        """
        model = TEXT_TO_IMAGE if request.image is None else IMAGE_TO_IMAGE
        yield Progress("text_encode", 0, request.steps)
        drawn: RawResult | None = None
        for result in self._answers(model, _inputs(request), cancel):
            images = result.as_numpy("image")
            if images is not None:
                drawn = _raw_result(images, result)
                continue
            step = _progress(result)
            yield step
            if step.step == step.steps:
                yield replace(step, stage="decode")
        if drawn is None:
            raise ServerError(
                "The server ended the request without a picture.",
                hint="Press Generate again; the server's log may say more.",
            )
        yield drawn

    def ready(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self._client.is_server_ready(client_timeout=CALL_SECONDS))
        except InferenceServerException:
            return False

    def model_ready(self, model: str) -> bool:
        """Whether the server can run ``model``."""
        try:
            return bool(self._client.is_model_ready(model, client_timeout=CALL_SECONDS))
        except InferenceServerException:
            return False

    def models(self) -> dict[str, str]:
        """Every model of the repository with its state, such as READY or UNAVAILABLE. Raises ServerError."""
        index = self._call(self._client.get_model_repository_index, as_json=True, client_timeout=CALL_SECONDS)
        return {model["name"]: model.get("state", "UNAVAILABLE") for model in index.get("models", [])}

    def load_model(self, model: str) -> None:
        """Load the model's newest version; the one before serves until then. Raises ServerError."""
        self._call(self._client.load_model, model, client_timeout=LOAD_SECONDS)

    def unload_model(self, model: str) -> None:
        """Take the model out of service and free its memory. Raises ServerError."""
        self._call(self._client.unload_model, model, client_timeout=LOAD_SECONDS)

    def close(self) -> None:
        """Give the connection back."""
        with suppress(queue.Empty):
            self._idle.get_nowait().close()
        self._client.close()

    def _connect(self) -> InferenceServerClient:
        return InferenceServerClient(self.address, channel_args=_CHANNEL)

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except InferenceServerException as error:
            raise _translate(error) from error

    def _answers(
        self, model: str, inputs: list[InferInput], cancel: threading.Event
    ) -> Iterator[InferResult]:
        """Every answer with content that a decoupled model gives to one request."""
        stream = self._take()
        done = False
        try:
            stream.ask(model, inputs)
            while not done:
                result, error = _next(stream.answers, cancel)
                if error is not None:
                    raise _translate_answer(error) from error
                assert result is not None
                response = result.get_response()
                if response.outputs:
                    yield result
                done = bool(response.parameters["triton_final_response"].bool_param)
        except InferenceServerException as error:
            raise _translate(error) from error
        finally:
            self._give_back(stream, done)

    def _take(self) -> _Stream:
        """A stream for one request: the one that the last request left, if it still stands."""
        with suppress(queue.Empty):
            stream = self._idle.get_nowait()
            if stream.answers.empty():
                return stream
            stream.close()  # nobody had asked, so what arrived is the news that the server went away
        return _Stream(self._connect())

    def _give_back(self, stream: _Stream, done: bool) -> None:
        if done:
            with suppress(queue.Full):  # several requests ran at once
                self._idle.put_nowait(stream)
                return
        stream.close()


class _Stream:
    """A gRPC stream, open for one request after another: opening one takes milliseconds."""

    def __init__(self, client: InferenceServerClient) -> None:
        self.answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._client = client  # of its own: tritonclient has one stream per client
        client.start_stream(lambda result, error: self.answers.put((result, error)))

    def ask(self, model: str, inputs: list[InferInput]) -> None:
        """Send a request; its answers come into ``answers``."""
        self._client.async_stream_infer(model, inputs, enable_empty_final_response=True)

    def close(self) -> None:
        """Cancel what is under way and give the connection back."""
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def _next(answers: queue.SimpleQueue[_Answer], cancel: threading.Event) -> _Answer:
    while not cancel.is_set():
        try:
            return answers.get(timeout=CANCEL_CHECK_SECONDS)
        except queue.Empty:
            continue
    raise Cancelled("Cancelled.")


def _inputs(request: ImageRequest) -> list[InferInput]:
    values = [
        (fields.PROMPT, request.prompt),
        (fields.NEGATIVE_PROMPT, request.negative_prompt),
        (fields.STEPS, request.steps),
        (fields.GUIDANCE, request.guidance_scale),
        (fields.SEED, request.seed),
        (fields.SAMPLER, request.sampler),
        (fields.WIDTH, request.width),
        (fields.HEIGHT, request.height),
        (fields.NUM_IMAGES, request.num_images),
    ]
    if request.image is not None:
        values += [(fields.IMAGE, request.image), (fields.STRENGTH, request.strength)]
    return [_input(field, value) for field, value in values if value is not None]


def _input(field: Field, value: Any) -> InferInput:
    dtype = np.dtype(fields.NUMPY_TYPES[field.dtype])
    if dtype.kind == "i" and not (isinstance(value, Integral) and _fits(int(value), dtype)):
        raise _refusal(field, value, "a whole number")
    if dtype.kind == "f" and not isinstance(value, Real):
        raise _refusal(field, value, "a number")
    if isinstance(value, str):
        value = value.encode("utf-8")
    with np.errstate(over="ignore"):  # too large becomes infinite, which the pipeline refuses
        array = np.atleast_1d(np.asarray(value, dtype))
    tensor = InferInput(field.name, list(array.shape), np_to_triton_dtype(dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def _refusal(field: Field, value: Any, what: str) -> RequestError:
    return RequestError(f"{field.name} is {value!r}; it must be {what} between {field.low} and {field.high}.")


def _fits(value: int, dtype: np.dtype[Any]) -> bool:
    return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def _progress(result: InferResult) -> Progress:
    done, steps = (int(value) for value in result.as_numpy("step"))
    return Progress("step", done, steps, result.as_numpy("preview"))


def _raw_result(images: Pixels, result: InferResult) -> RawResult:
    timings = json.loads(result.as_numpy("timings")[0])
    return RawResult(
        images=images,
        seeds=tuple(int(seed) for seed in result.as_numpy("seed")),
        spans=tuple(Span(**span) for span in timings["spans"]),
        engine=timings["engine"],
        warnings=tuple(timings.get("warnings", ())),
    )


# How Triton and its client word the death of a model's process, or of the server.
_LOST = re.compile(
    r"is not healthy|[Ss]erver not ready|failed to connect|Socket closed|Stream removed|Connection reset"
    r"|no longer in valid state"
)
_REFUSAL = re.compile(rf"(?:{'|'.join(field.name for field in fields.IMAGE_TO_IMAGE)}) |This size ")
_PREFIXES = re.compile(r"^.*?(?:, message: |UNAVAILABLE state: (?:Internal: )?)")


def _translate(error: InferenceServerException) -> ServerError:
    """Triton's error as one of ours, in its own words less its prefixes."""
    status, message = str(error.status() or ""), str(error.message() or "")
    if status.endswith(("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED")) or _LOST.search(message):
        return ServerLostError(
            "The server went away while it was working.",
            state="The studio is bringing it back.",
            hint="Press Generate again if the picture does not come.",
        )
    reason = _PREFIXES.sub("", message).partition("\n")[0] or status
    return ServerError(
        f"The server could not do it: {reason.rstrip('.')}.",
        state="It goes on serving.",
        hint="Its log has the details.",
    )


def _translate_answer(error: InferenceServerException) -> RequestError | ServerError:
    """What a model answered. A stream's errors carry no status: the pipelines' refusals name a field."""
    message = str(error.message())
    return RequestError(message) if _REFUSAL.match(message) else _translate(error)

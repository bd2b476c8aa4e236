"""Serves the pipelines: plain (one request, one answer) and streaming (every step an answer)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np

from ..cancel import CancelToken
from ..denoise import Cancelled, Step
from ..manifest import EngineSet, ModelInfo
from ..pipeline import Moments, Pictures, Pipeline, Pixels
from ..request import Request, read
from ..runners import Array, Floats
from ..timings import Timings
from ..tokenizer import PromptTokenizer
from . import triton

CANCEL_POLL_SECONDS = 0.02


class _Models:
    """The stages of one request, each a Triton model."""

    def __init__(self, pixels_per_latent: int, cancel_token: str) -> None:
        self._scale = pixels_per_latent
        self._cancel_token = cancel_token

    def encode_text(self, ids: np.ndarray[Any, np.dtype[np.int32]]) -> Floats:
        return triton.call("text_encoder", {"input_ids": ids}, ["embeddings"])["embeddings"]

    def encode_image(self, image: Pixels) -> Moments:
        moments = triton.call("vae_encoder", {"image": image}, ["mean", "std"])
        return moments["mean"], moments["std"]

    def denoise(
        self, request: Request, embeddings: Floats, image: Moments | None, timings: Timings
    ) -> Iterator[Step]:
        inputs: dict[str, Array] = {
            "embeddings": embeddings,
            "seed": np.array(request.seeds, np.int64),
            "sampler": triton.text(request.sampler),
            "num_inference_steps": np.array([request.steps], np.int32),
            "guidance_scale": np.array([request.guidance_scale], np.float32),
            "latent_size": np.array([request.height // self._scale, request.width // self._scale], np.int32),
            "cancel_token": triton.text(self._cancel_token),
        }
        if image is not None:
            strength = np.array([request.strength], np.float32)
            inputs |= {"image_mean": image[0], "image_std": image[1], "strength": strength}
        sent = timings.now()
        for answer in triton.stream("denoiser", inputs, ["step", "preview", "latents", "timings"]):
            if "timings" in answer:
                timings.absorb(answer["timings"][0].decode("utf-8"), sent)
            done, total = (int(value) for value in answer["step"])
            yield Step(done, total, answer["preview"], answer.get("latents"))

    def decode(self, latents: Floats) -> Pixels:
        return triton.call("vae_decoder", {"latents": latents}, ["image"])["image"]


class _PipelineModel:
    """What both kinds share."""

    def initialize(self, args: Mapping[str, str]) -> None:
        inputs = json.loads(args["model_config"])["input"]
        self._required = [tensor["name"] for tensor in inputs if not tensor.get("optional")]
        folder = EngineSet.load(triton.version_folder(args)).info_folder
        self._info = ModelInfo.load(folder)
        tokenizer = PromptTokenizer(folder / "tokenizer", self._info.max_tokens)
        self._pipeline = Pipeline(self._info, tokenizer)

    def _read(self, request: Any) -> Request:
        return read(triton.tensors_of(request), self._info, self._required)

    def _run(
        self, request: Request, timings: Timings, cancelled: Callable[[], bool]
    ) -> Iterator[Step | Pictures]:
        if cancelled():
            raise Cancelled
        with CancelToken() as token, _watching(token, cancelled):
            stages = _Models(self._info.vae_scale_factor, token.name)
            yield from self._pipeline.run(request, stages, timings, cancelled)


class PlainPipeline(_PipelineModel):
    """A unary model: the pictures are the answer."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        timings = Timings()
        try:
            *_, pictures = self._run(self._read(request), timings, request.is_cancelled)
            return triton.response(_outputs(pictures, timings))
        except Exception as error:  # whatever it is, it must end this request and not the model
            return triton.failure(error)


class StreamingPipeline(_PipelineModel):
    """A decoupled model. Requests wait in a queue of ours, where their waiting is seen and timed."""

    def initialize(self, args: Mapping[str, str]) -> None:
        super().initialize(args)
        self._waiting: SimpleQueue[tuple[Any, Request, Timings] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="pipeline", daemon=True)
        self._worker.start()

    def execute(self, requests: list[Any]) -> None:
        for each in requests:
            sender, timings = each.get_response_sender(), Timings()
            try:
                self._waiting.put((sender, self._read(each), timings))
            except Exception as error:
                sender.send(triton.failure(error), flags=triton.FINAL)

    def finalize(self) -> None:
        self._waiting.put(None)
        self._worker.join()

    def _work(self) -> None:
        while (job := self._waiting.get()) is not None:
            try:
                self._answer(*job)
            except Exception as error:  # such as a client that left; the next one is waiting
                triton.log(error)

    def _answer(self, sender: Any, request: Request, timings: Timings) -> None:
        timings.add("queue", timings.arrival, timings.now())
        try:
            for event in self._run(request, timings, sender.is_cancelled):
                sender.send(triton.response(_outputs(event, timings)))
        except Exception as error:
            sender.send(triton.failure(error), flags=triton.FINAL)
        else:
            sender.send(flags=triton.FINAL)


def _outputs(event: Step | Pictures, timings: Timings) -> dict[str, Array]:
    if isinstance(event, Step):
        return {"step": np.array([event.done, event.total], np.int32), "preview": event.preview}
    seeds = np.array(event.seeds, np.int64)
    return {"image": event.images, "seed": seeds, "timings": triton.text(timings.to_json())}


@contextmanager
def _watching(token: CancelToken, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Cancel ``token`` soon after the request is, even while a long step is under way."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(CANCEL_POLL_SECONDS):
            if cancelled():
                token.cancel()
                return

    watcher = threading.Thread(target=watch, name="cancel-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()

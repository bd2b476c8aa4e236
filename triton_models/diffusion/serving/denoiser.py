"""Serves the denoiser: one request is one whole sampling loop, every step of it an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import fields, request
from ..cancel import CancelWatch
from ..denoise import Cancelled, Denoiser, Job, Step
from ..manifest import EngineSet, ModelInfo
from ..runners import Array, Engines, NoEngine
from ..timings import Timings
from . import triton


class DenoiserModel:
    """A decoupled model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        engine_set = EngineSet.load(triton.version_folder(args))
        info = ModelInfo.load(engine_set.info_folder)
        self._denoiser = Denoiser(info, Engines(engine_set))
        self._warm(info)

    def execute(self, requests: list[Any]) -> None:
        for each in requests:
            self._answer(each.get_response_sender(), each)

    def _answer(self, sender: Any, asked: Any) -> None:
        try:
            tensors = triton.tensors_of(asked)
            with contextlib.closing(CancelWatch(_text(tensors, "cancel_token"))) as watch:
                self._send_steps(sender, tensors, watch)
        except Cancelled:
            pass  # an end without latents
        except Exception as error:  # whatever it is, it must end this request and not the model
            sender.send(triton.failure(error))
        finally:
            sender.send(flags=triton.FINAL)

    def _send_steps(self, sender: Any, tensors: Mapping[str, Array], watch: CancelWatch) -> None:
        timings = Timings()
        for step in self._denoiser.run(_job(tensors), timings, watch.cancelled):
            sender.send(triton.response(_outputs(step, timings)))

    def _warm(self, info: ModelInfo) -> None:
        """One step of the checkpoint's own size, so that the first picture need not wait."""
        scale = info.vae_scale_factor
        job = Job(
            embeddings=np.zeros((2, info.max_tokens, info.embedding_width), np.float32),
            seeds=[0],
            sampler="Euler",
            steps=1,
            guidance_scale=1.0,
            height=info.default_height // scale,
            width=info.default_width // scale,
        )
        with contextlib.suppress(NoEngine):  # there are engines for other sizes
            list(self._denoiser.run(job, Timings(), lambda: False))


def _job(tensors: Mapping[str, Array]) -> Job:
    height, width = (int(size) for size in tensors["latent_size"])
    image = (tensors["image_mean"], tensors["image_std"]) if "image_mean" in tensors else None
    return Job(
        embeddings=tensors["embeddings"],
        seeds=[int(seed) for seed in tensors["seed"]],
        sampler=request.sampler(tensors),
        steps=request.integer(tensors, fields.STEPS),
        guidance_scale=request.number(tensors, fields.GUIDANCE),
        height=height,
        width=width,
        image=image,
        strength=request.number(tensors, fields.STRENGTH),
    )


def _outputs(step: Step, timings: Timings) -> dict[str, Array]:
    outputs: dict[str, Array] = {
        "step": np.array([step.done, step.total], np.int32),
        "preview": step.preview,
    }
    if step.latents is not None:
        outputs |= {"latents": step.latents, "timings": triton.text(timings.to_json())}
    return outputs


def _text(tensors: Mapping[str, Array], name: str) -> str:
    return tensors[name][0].decode("ascii") if name in tensors else ""

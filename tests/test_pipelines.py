"""The pipelines on a real server: plain and streaming, what they refuse, and what they survive."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from studio.client import RawResult, TritonClient
from studio.errors import Cancelled, RequestError
from studio.request import ImageRequest, Progress
from studio.server.supervise import Supervisor
from triton_models.diffusion import fields

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

TEXT_TO_IMAGE = "pipeline_text_to_image"
IMAGE_TO_IMAGE = "pipeline_image_to_image"
NUMPY = {field.name: fields.NUMPY_TYPES[field.dtype] for field in fields.IMAGE_TO_IMAGE}
GREY = np.full((64, 64, 3), 128, np.uint8)
QUICK = {"num_inference_steps": 1, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def triton(studio_server: Supervisor) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(studio_server.endpoint.address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def studio(studio_server: Supervisor) -> Iterator[TritonClient]:
    client = TritonClient(studio_server.endpoint.address)
    yield client
    client.close()


def tensor(name: str, value: Any) -> InferInput:
    if isinstance(value, str):
        value = value.encode()
    array = value if isinstance(value, np.ndarray) else np.array([value], NUMPY[name])
    kind = "BYTES" if array.dtype == np.object_ else {"u": "UINT8", "f": "FP", "i": "INT"}[array.dtype.kind]
    if array.dtype.kind in "fi":
        kind += str(8 * array.dtype.itemsize)
    sent = InferInput(name, list(array.shape), kind)
    sent.set_data_from_numpy(array)
    return sent


def infer(triton: InferenceServerClient, model: str, **values: Any) -> InferResult:
    return triton.infer(model, [tensor(name, value) for name, value in values.items()])


def small(**changes: Any) -> ImageRequest:
    return ImageRequest(**{"prompt": "a boat", "steps": 2, "seed": 1, "width": 64, "height": 64, **changes})


def draw(studio: TritonClient, request: ImageRequest) -> tuple[list[Progress], RawResult]:
    *steps, result = studio.generate(request, threading.Event())
    assert isinstance(result, RawResult)
    return [step for step in steps if isinstance(step, Progress) and step.stage == "step"], result


def test_a_prompt_is_enough(triton: InferenceServerClient) -> None:
    answer = infer(triton, TEXT_TO_IMAGE, prompt="a red house")

    assert answer.as_numpy("image").shape == (1, 256, 256, 3)
    assert answer.as_numpy("image").dtype == np.uint8
    assert answer.as_numpy("seed").tolist() != [-1]
    said = json.loads(answer.as_numpy("timings")[0])
    stages = [span["stage"] for span in said["spans"]]
    assert stages == ["text_encode", "queue", *["step"] * 20, "decode"]
    assert said["engine"] == "onnxruntime fp32"


def test_spans_follow_each_other_from_the_arrival(studio: TritonClient) -> None:
    _, result = draw(studio, small(image=GREY, width=None, height=None, strength=1.0, num_images=2))

    stages = [span.stage for span in result.spans]
    assert stages == ["queue", "text_encode", "image_encode", "queue", "step", "step", "decode", "decode"]
    for earlier, later in zip(result.spans, result.spans[1:], strict=False):
        assert 0 <= earlier.start <= earlier.start + earlier.seconds <= later.start + 1e-6


def test_streaming_and_plain_give_the_same_bytes_every_time(
    triton: InferenceServerClient, studio: TritonClient
) -> None:
    _, first = draw(studio, small(sampler="Euler a", steps=4))
    _, second = draw(studio, small(sampler="Euler a", steps=4))
    plain = infer(
        triton,
        TEXT_TO_IMAGE,
        prompt="a boat",
        **{**QUICK, "num_inference_steps": 4},
        seed=1,
        sampler="Euler a",
    )

    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.images, plain.as_numpy("image"))


def test_every_step_brings_a_preview(studio: TritonClient) -> None:
    steps, result = draw(studio, small(steps=5, sampler="Heun", num_images=2, width=128))

    assert [(step.step, step.steps) for step in steps] == [(done, 5) for done in range(1, 6)]
    assert all(step.previews is not None and step.previews.shape == (2, 8, 16, 3) for step in steps)
    assert result.images.shape == (2, 64, 128, 3)


def test_pictures_of_a_batch_are_those_of_their_seeds(studio: TritonClient) -> None:
    _, batch = draw(studio, small(seed=7, num_images=3, sampler="DPM++ 2M SDE"))
    _, alone = draw(studio, small(seed=8, sampler="DPM++ 2M SDE"))

    assert batch.seeds == (7, 8, 9)
    assert np.abs(batch.images[1].astype(int) - alone.images[0]).max() <= 1


def test_too_little_strength_for_a_step_keeps_the_picture(studio: TritonClient) -> None:
    steps, kept = draw(studio, small(image=GREY, strength=0.0, width=None, height=None))
    _, again = draw(studio, small(image=GREY, strength=0.2, width=None, height=None))

    assert [(step.step, step.steps) for step in steps] == [(0, 0)]
    assert np.array_equal(kept.images, again.images)


@pytest.mark.parametrize(
    "prompt",
    ["", "null\0byte", "red " * 10_000, "🦊🎨" * 20, "בית אדום על גבעה", "e\u0301" * 500, "<|endoftext|>"],
    ids=["empty", "NUL", "10,000 words", "emoji", "right to left", "combining", "end token"],
)
def test_any_text_is_drawn(triton: InferenceServerClient, prompt: str) -> None:
    answer = infer(triton, TEXT_TO_IMAGE, prompt=prompt, negative_prompt=prompt, **QUICK)

    assert answer.as_numpy("image").shape == (1, 64, 64, 3)


def test_words_that_do_not_fit_are_named(triton: InferenceServerClient) -> None:
    answer = infer(triton, TEXT_TO_IMAGE, prompt="tree " * 90 + "and a very last fox", **QUICK)

    (warning,) = json.loads(answer.as_numpy("timings")[0])["warnings"]
    assert "prompt is too long" in warning
    assert "were not read" in warning


REFUSED = {
    "guidance NaN": ({"guidance_scale": np.nan}, "guidance_scale is nan; it must be between 0 and 30."),
    "guidance inf": ({"guidance_scale": np.inf}, "guidance_scale is inf; it must be between 0 and 30."),
    "guidance huge": ({"guidance_scale": 1e30}, "guidance_scale is 1e+30; it must be between 0 and 30."),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be between 1 and 150."),
    "seed": ({"seed": -2}, "seed is -2; it must be between -1 and 9223372036854775807."),
    "sampler": ({"sampler": "Karras"}, "sampler is 'Karras'; it must be one of Euler, Euler a"),
    "width": ({"width": 100}, "width is 100; it must be a multiple of 8."),
    "height": ({"height": 4096}, "height is 4096; it must be between 64 and 2048."),
    "pictures": ({"num_images": 9}, "num_images is 9; it must be between 1 and 8."),
    "not UTF-8": ({"prompt": b"\xff\xfe"}, r"prompt is b'\xff\xfe'; it must be UTF-8 text."),
    "a book": ({"prompt": "x" * 100_001}, "prompt has 100001 bytes; it must have at most 100000."),
    "dtype": ({"seed": np.array([1.0])}, "data-type is 'FP64'"),
    "shape": ({"seed": np.array([1, 2])}, "unexpected shape for input 'seed'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_value_is_refused_in_one_sentence(triton: InferenceServerClient, name: str) -> None:
    change, sentence = REFUSED[name]

    with pytest.raises(InferenceServerException) as refused:
        infer(triton, TEXT_TO_IMAGE, **{"prompt": "a boat", **change})

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in refused.value.message()
    assert "\n" not in refused.value.message()


REFUSED_IMAGES = {
    "no image": ({"seed": 1}, "image is missing; it must be given."),
    "odd size": ({"image": GREY[:, :60]}, "image has a width of 60; it must be between 64 and 2048"),
    "empty": ({"image": GREY[:0]}, "image has a height of 0"),
    "alpha": ({"image": np.zeros((64, 64, 4), np.uint8)}, "unexpected shape for input 'image'"),
    "other size": ({"image": GREY, "width": 128}, "width is 128; it must be that of the image, 64"),
    "strength": ({"image": GREY, "strength": 1.5}, "strength is 1.5; it must be between 0 and 1."),
}


@pytest.mark.parametrize("name", REFUSED_IMAGES)
def test_bad_image_is_refused_in_one_sentence(triton: InferenceServerClient, name: str) -> None:
    values, sentence = REFUSED_IMAGES[name]

    with pytest.raises(InferenceServerException) as refused:
        infer(triton, IMAGE_TO_IMAGE, prompt="a boat", **values)

    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert sentence in refused.value.message()


def test_prompt_is_needed(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="prompt is missing"):
        infer(triton, TEXT_TO_IMAGE, seed=1)


def test_streaming_refuses_too_and_goes_on(studio: TritonClient) -> None:
    with pytest.raises(RequestError, match="width is 100; it must be a multiple of 8"):
        draw(studio, small(width=100))
    draw(studio, small())


def test_denoiser_refuses_and_goes_on(triton: InferenceServerClient) -> None:
    """Straight to the model that the pipelines shield."""
    answers: list[Any] = []
    done = threading.Event()

    def keep(result: Any, error: Any) -> None:
        answers.append(error or result)
        done.set()

    values = {
        "embeddings": np.zeros((1, 77, 1), np.float32),
        "seed": np.array([1], np.int64),
        "sampler": np.array([b"none"], np.object_),
        "num_inference_steps": np.array([1], np.int32),
        "guidance_scale": np.array([1], np.float32),
        "latent_size": np.array([8, 8], np.int32),
    }
    triton.start_stream(keep)
    triton.async_stream_infer("denoiser", [tensor(name, value) for name, value in values.items()])
    assert done.wait(30)
    triton.stop_stream()

    assert "sampler is 'none'; it must be one of" in str(answers[0])


def test_cancel_stops_the_denoiser_within_a_step(studio: TritonClient) -> None:
    cancel = threading.Event()
    seen = []

    def watch() -> None:
        for progress in studio.generate(small(steps=150, width=256, height=256), cancel):
            assert isinstance(progress, Progress)
            seen.append(progress.step)
            if progress.step == 3:
                cancel.set()

    with pytest.raises(Cancelled):
        watch()
    _, after = draw(studio, small(steps=1))

    assert seen[-1] <= 4
    per_step = 150 * next(span.seconds for span in after.spans if span.stage == "step")
    waited = sum(span.seconds for span in after.spans if span.stage == "queue")
    assert waited < max(per_step, 5), "the next picture waited for the cancelled one to be finished"


def test_plain_request_can_be_cancelled(triton: InferenceServerClient) -> None:
    ended = threading.Event()
    inputs = [tensor("prompt", "a boat"), tensor("num_inference_steps", 150)]
    call = triton.async_infer(TEXT_TO_IMAGE, inputs, lambda result, error: ended.set())
    time.sleep(0.5)
    call.cancel()
    assert ended.wait(10)

    answer = infer(triton, TEXT_TO_IMAGE, prompt="a boat", **QUICK)

    assert answer.as_numpy("image").shape == (1, 64, 64, 3)


def test_cancelled_while_waiting_is_never_begun(studio: TritonClient) -> None:
    ahead = threading.Thread(target=draw, args=(studio, small(steps=40)))
    ahead.start()
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Cancelled):
        list(studio.generate(small(steps=150, width=512, height=512, num_images=8), cancel))
    _, behind = draw(studio, small(steps=1))
    ahead.join()

    assert behind.images.shape == (1, 64, 64, 3)


def test_fifty_at_once_are_all_served(studio: TritonClient) -> None:
    results: dict[int, RawResult] = {}

    def one(seed: int) -> None:
        results[seed] = draw(studio, small(steps=1, seed=seed))[1]

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {seed: result.seeds for seed, result in results.items()} == {seed: (seed,) for seed in range(50)}
    assert len({result.images.tobytes() for result in results.values()}) == 50

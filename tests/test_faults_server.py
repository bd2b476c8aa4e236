"""Faults and bad input on the real pipelines: the server lives, or comes back, and says what is wrong."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from studio.client import RawResult, TritonClient
from studio.errors import Cancelled, RequestError, ServerError
from studio.generate import Studio
from studio.history import History
from studio.request import ImageRequest, ImageResult, Progress
from studio.server.embedded import Embedded
from studio.server.repository import Repository
from studio.server.supervise import Supervisor
from tests.conftest import COMPONENTS
from tests.patience import eventually
from tests.processes import kill
from triton_models.diffusion.manifest import Engine, ModelInfo

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

SMALL = {"width": 64, "height": 64, "steps": 1, "seed": 1}


@pytest.fixture
def client(studio_server: Supervisor) -> Iterator[TritonClient]:
    client = TritonClient(studio_server.endpoint.address)
    yield client
    client.close()


@pytest.fixture
def studio(studio_server: Supervisor, exported: Path, tmp_path: Path) -> Iterator[Studio]:
    with History(tmp_path / "data") as history:
        studio = Studio(studio_server, ModelInfo.load(exported), history)
        yield studio
        studio.close()


def draw(client: TritonClient, prompt: str = "a red house", **fields: object) -> RawResult:
    request = ImageRequest(prompt, **(SMALL | fields))  # type: ignore[arg-type]
    *_, last = client.generate(request, threading.Event())
    assert isinstance(last, RawResult)
    return last


# What a person can type


@pytest.mark.parametrize(
    "prompt",
    ["", "word " * 10_000, "🏔️🌊 👩‍🎨", "‏بيت أحمر بجانب البحر", "a house\0by the sea", "((((((", "\n\t"],
    ids=["empty", "10000 words", "emoji", "right to left", "NUL", "brackets", "blank"],
)
def test_any_prompt_draws(client: TritonClient, prompt: str) -> None:
    assert draw(client, prompt, negative_prompt=prompt).images.shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("steps", 0, "num_inference_steps"),
        ("steps", 151, "num_inference_steps"),
        ("guidance_scale", float("nan"), "guidance_scale"),
        ("guidance_scale", float("inf"), "guidance_scale"),
        ("guidance_scale", -1.0, "guidance_scale"),
        ("guidance_scale", 1e300, "guidance_scale"),
        ("seed", -2, "seed"),
        ("seed", 2**64, "seed"),
        ("sampler", "Magic", "sampler"),
        ("width", 100, "width"),
        ("height", 1 << 20, "height"),
        ("num_images", 9, "num_images"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(
    client: TritonClient, field: str, value: object, name: str
) -> None:
    with pytest.raises(RequestError, match=f"^{name} is ") as caught:
        draw(client, **{field: value})
    assert str(caught.value).count(". ") == 0
    assert draw(client).seeds == (1,)


# What a program can send


def _ask_raw(address: str, model: str, tensors: dict[str, np.ndarray]) -> str:
    """With which words a unary pipeline refuses these tensors."""
    inputs = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    client = triton.InferenceServerClient(address)
    try:
        with pytest.raises(InferenceServerException) as refused:
            client.infer(model, inputs, client_timeout=60)
    finally:
        client.close()
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    return str(refused.value.message())


PROMPT = np.array([b"a red house"], np.object_)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("prompt", np.array([7], np.int32)),
        ("prompt", np.array([b"a", b"b"], np.object_)),
        ("prompt", np.array([[b"a"]], np.object_)),
        ("prompt", np.array([b"\xff\xfe"], np.object_)),
        ("num_inference_steps", np.array([2.5], np.float32)),
        ("num_inference_steps", np.array([2], np.int64)),
        ("num_inference_steps", np.array([-(2**31)], np.int32)),
        ("guidance_scale", np.array([np.nan], np.float32)),
        ("guidance_scale", np.array([np.inf], np.float32)),
        ("guidance_scale", np.array([3.4e38], np.float32)),
        ("guidance_scale", np.array([7.0], np.float64)),
        ("seed", np.array([-(2**63)], np.int64)),
        ("seed", np.array([[1]], np.int64)),
        ("no_such_field", np.array([1], np.int32)),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else f"{value.dtype}{list(value.shape)}{value.flat[0]!r}"
    ),
)
def test_wrong_tensors_are_refused_by_name(
    studio_server: Supervisor, client: TritonClient, name: str, array: np.ndarray
) -> None:
    address = studio_server.endpoint.address
    assert name in _ask_raw(address, "pipeline_text_to_image", {"prompt": PROMPT, name: array})
    assert draw(client).seeds == (1,)


@pytest.mark.parametrize(
    ("image", "strength"),
    [
        (np.zeros((64, 64, 4), np.uint8), 0.5),
        (np.zeros((64, 64), np.uint8), 0.5),
        (np.zeros((64, 60, 3), np.uint8), 0.5),
        (np.zeros((0, 64, 3), np.uint8), 0.5),
        (np.zeros((64, 64, 3), np.float32), 0.5),
        (np.zeros((64, 64, 3), np.uint8), np.nan),
        (np.zeros((64, 64, 3), np.uint8), 1.5),
    ],
    ids=["rgba", "grey", "odd", "empty", "float", "nan strength", "large strength"],
)
def test_wrong_images_are_refused(
    studio_server: Supervisor, client: TritonClient, image: np.ndarray, strength: float
) -> None:
    tensors = {"prompt": PROMPT, "image": image, "strength": np.array([strength], np.float32)}
    assert _ask_raw(studio_server.endpoint.address, "pipeline_image_to_image", tensors)
    assert draw(client).seeds == (1,)


def test_a_missing_prompt_is_refused(studio_server: Supervisor) -> None:
    tensors = {"seed": np.array([1], np.int64)}
    assert "prompt" in _ask_raw(studio_server.endpoint.address, "pipeline_text_to_image", tensors)


# What a machine can do


@pytest.mark.parametrize("victim", ["denoiser/1/model.py", "text_to_image_stream/1/", "bin/tritonserver\0"])
def test_a_picture_survives_kill_9(studio: Studio, studio_server: Supervisor, victim: str) -> None:
    request = ImageRequest("a red house", steps=30, seed=3)
    expected = _draw_whole(studio, request)
    before = studio_server.endpoint
    killer = threading.Event()

    def kill_once(progress: Progress) -> None:
        if progress.step == 2 and not killer.is_set():
            killer.set()
            kill(studio_server.endpoint.address, victim)

    survived = _draw_whole(studio, request, kill_once)
    assert studio_server.endpoint != before
    assert np.array_equal(survived.images, expected.images)


def _draw_whole(
    studio: Studio, request: ImageRequest, at: Callable[[Progress], None] = lambda _: None
) -> ImageResult:
    for item in studio.generate(request):
        if isinstance(item, ImageResult):
            return item
        at(item)
    raise AssertionError("no picture came")


def test_a_model_that_dies_idle_comes_back_unasked(studio_server: Supervisor) -> None:
    before = studio_server.endpoint
    kill(studio_server.endpoint.address, "vae_decoder/1/model.py")
    assert eventually(lambda: studio_server.endpoint != before and studio_server.ready(), 60)
    client = TritonClient(studio_server.endpoint.address)
    assert draw(client).seeds == (1,)
    client.close()


def _runs(address: str, model: str) -> int:
    client = triton.InferenceServerClient(address)
    statistics = client.get_inference_statistics(model)
    client.close()
    return int(statistics.model_stats[0].inference_stats.success.count)


def test_cancel_stops_within_a_step_and_decodes_nothing(
    studio_server: Supervisor, client: TritonClient
) -> None:
    address = studio_server.endpoint.address
    decoded = _runs(address, "vae_decoder")
    cancel = threading.Event()
    seen: list[Progress | RawResult] = []

    def watch() -> None:
        request = ImageRequest("a red house", steps=150, seed=1)
        for item in client.generate(request, cancel):
            seen.append(item)
            if len(seen) == 3:
                cancel.set()

    with pytest.raises(Cancelled):
        watch()
    began = time.monotonic()
    draw(client)  # waits for the denoiser to be free
    assert len(seen) == 3
    assert time.monotonic() - began < 20, "150 steps would take longer"
    assert _runs(address, "vae_decoder") == decoded + 1


def test_fifty_requests_at_once(client: TritonClient) -> None:
    results: dict[int, RawResult] = {}

    def ask(seed: int) -> None:
        results[seed] = draw(client, seed=seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(50))
    assert all(result.seeds == (seed,) for seed, result in results.items())
    assert np.array_equal(results[7].images, draw(client, seed=7).images)


def test_a_garbled_engine_list_is_refused_and_the_old_one_serves_on(
    studio_server: Supervisor, client: TritonClient
) -> None:
    models = Path(studio_server.endpoint.address.removeprefix("unix:")).parent / "models"
    repository = studio_server.server.repository
    version = repository.replace("vae_decoder", repository.engines["vae_decoder"], models)
    (models / "vae_decoder" / str(version) / "engines.json").write_bytes(b"\0garbage" * 100)
    with pytest.raises(ServerError):
        client.load_model("vae_decoder")
    assert draw(client).seeds == (1,)


@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_engine_file_is_named(
    embedded_platform: None, exported: Path, tmp_path: Path, damage: str
) -> None:
    whole = (exported / "vae_decoder.onnx").read_bytes()
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else os.urandom(10_000))
    engines = {name: [Engine("onnxruntime", f"{name}.onnx", "fp32")] for name in COMPONENTS}
    engines["vae_decoder"] = [Engine("onnxruntime", str(damaged), "fp32")]
    repository = Repository(exported, engines, tmp_path / "compiled", threads=2)

    def start_and_draw() -> None:
        supervisor.start()
        draw(TritonClient(supervisor.endpoint.address))

    supervisor = Supervisor(Embedded(repository, tmp_path / "logs"))
    with supervisor, pytest.raises(ServerError, match="onnxruntime fp32"):
        start_and_draw()

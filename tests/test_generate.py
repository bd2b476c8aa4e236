"""The line: what it yields, keeps, retries and says, against a scripted client."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import MODEL, FakeClient, FakeServer

from studio.errors import Cancelled, RequestError, ServerError, ServerLostError
from studio.generate import Studio
from studio.history import History
from studio.image import read_text
from studio.request import ImageRequest, ImageResult, Progress
from studio.settings import CHECKOUT

ASKED = ImageRequest("a red house", steps=5, seed=7)


def lost() -> ServerLostError:
    return ServerLostError("The server went away while it was working.")


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "data") as opened:
        yield opened


def studio(history: History, client: FakeClient, server: FakeServer | None = None) -> Studio:
    return Studio(server or FakeServer(), MODEL, history, lambda address: client)


def drawn(studio: Studio, request: ImageRequest = ASKED, **options) -> ImageResult:
    return list(studio.generate(request, **options))[-1]


def test_yields_every_step_and_ends_in_the_saved_picture(history):
    items = list(studio(history, FakeClient(seconds_per_step=0.002)).generate(ASKED))
    steps = [item for item in items[:-1] if item.stage == "step"]
    assert [(item.step, item.steps) for item in steps] == [(n, 5) for n in range(1, 6)]
    assert all(item.previews.shape == (1, 32, 32, 3) for item in steps)
    assert all(item.steps_per_second > 0 for item in steps[1:])
    assert steps[-1].eta_seconds == 0
    result = items[-1]
    assert result.images.shape == (1, 256, 256, 3)
    assert (result.seeds, result.engine, result.model) == ((7,), "openvino bf16", "postcards")
    assert read_text(result.files[0]).startswith("a red house\nSteps: 5, ")


def test_spans_cover_the_whole_time_in_order(history):
    result = drawn(studio(history, FakeClient(seconds_per_step=0.005)))
    stages = [span.stage for span in result.spans]
    assert stages == ["queue", "text_encode", *["step"] * 5, "decode", "transfer", "save"]
    starts = [span.start for span in result.spans]
    assert starts == sorted(starts)
    save = result.spans[-1]
    assert result.seconds == save.start + save.seconds


def test_time_since_the_press_counts_as_queue(history):
    import time

    result = drawn(studio(history, FakeClient()), asked_at=time.perf_counter() - 2.0)
    assert result.spans[0].seconds >= 2.0
    assert result.seconds > 2.0


def test_a_seed_is_drawn_once_and_told(history):
    first, second = (drawn(studio(history, FakeClient()), ImageRequest("x", steps=1)) for _ in range(2))
    assert first.seeds[0] == first.request.seed >= 0
    assert first.seeds != second.seeds


def test_a_lost_server_is_restored_and_the_same_request_asked_again(history):
    client, server = FakeClient(faults=[lost()]), FakeServer()
    items = list(studio(history, client, server).generate(ImageRequest("x", steps=2)))
    assert server.restored == 1
    assert client.asked[0] == client.asked[1]
    assert Progress("restart") in items
    assert isinstance(items[-1], ImageResult)


def test_a_server_lost_twice_ends_the_request_with_a_sentence(history):
    server = FakeServer()
    with pytest.raises(ServerLostError, match="went away"):
        drawn(studio(history, FakeClient(faults=[lost(), lost()]), server))
    assert server.restored == 1
    assert history.recent(1) == []


def test_other_errors_are_not_retried(history):
    for error in (RequestError("steps must be 1 to 150."), ServerError("broken")):
        server = FakeServer()
        with pytest.raises(type(error)):
            drawn(studio(history, FakeClient(faults=[error]), server))
        assert server.restored == 0


def test_cancel_stops_within_one_step_and_keeps_nothing(history):
    client, cancel = FakeClient(seconds_per_step=0.01), threading.Event()
    line = studio(history, client).generate(ASKED, cancel)
    for item in line:
        if item.step == 2:
            cancel.set()
            break
    with pytest.raises(Cancelled):
        list(line)
    assert client.steps_done == 2
    assert history.recent(1) == []


def test_cancel_while_the_server_restarts_does_not_draw_again(history):
    cancel = threading.Event()
    client, server = FakeClient(faults=[lost()]), FakeServer()
    server.restore = cancel.set
    with pytest.raises(Cancelled):
        drawn(studio(history, client, server), cancel=cancel)
    assert len(client.asked) == 1


def test_cancel_does_not_wait_for_the_server_to_be_back(history):
    cancel, back = threading.Event(), threading.Event()
    client, server = FakeClient(faults=[lost()]), FakeServer()
    server.restore = back.wait
    line = studio(history, client, server).generate(ASKED, cancel)
    assert Progress("restart") in (next(line) for _ in range(2))
    cancel.set()
    with pytest.raises(Cancelled):
        next(line)
    assert not back.is_set()
    back.set()


def test_a_program_that_ends_does_not_wait_for_the_server_to_be_back(tmp_path):
    code = f"""
import threading
from pathlib import Path
from fakes import MODEL, FakeClient, FakeServer
from studio.errors import Cancelled, ServerLostError
from studio.generate import Studio
from studio.history import History
from studio.request import ImageRequest

server, cancel = FakeServer(), threading.Event()
server.restore = threading.Event().wait
client = FakeClient(faults=[ServerLostError("gone")])
history = History(Path({str(tmp_path)!r}))
line = Studio(server, MODEL, history, lambda address: client).generate(ImageRequest("x"), cancel)
threading.Timer(0.2, cancel.set).start()
try:
    list(line)
except Cancelled:
    print("cancelled")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == "cancelled\n", done.stderr


def test_the_start_image_is_fitted_to_the_size_drawn(history):
    client = FakeClient()
    image = np.zeros((100, 300, 3), np.uint8)
    result = drawn(studio(history, client), ImageRequest("x", steps=1, width=64, height=96, image=image))
    assert client.asked[0].image.shape == (96, 64, 3)
    assert history.find(result.files[0]).start_image.exists()


@pytest.mark.parametrize("size", [(-8, 64), (64, 10**9), (7, 7)])
def test_a_size_that_cannot_be_drawn_reaches_the_server_and_no_memory(history, size):
    image = np.zeros((100, 300, 3), np.uint8)
    resolved = studio(history, FakeClient()).resolve(
        ImageRequest("x", width=size[0], height=size[1], image=image)
    )
    assert (resolved.width, resolved.height) == size
    assert 64 <= min(resolved.image.shape[:2]) <= max(resolved.image.shape[:2]) <= 2048


def test_every_picture_of_a_batch_is_saved_with_its_own_seed(history):
    result = drawn(studio(history, FakeClient()), ImageRequest("x", steps=1, seed=41, num_images=3))
    assert [history.find(file).request.seed for file in result.files] == [41, 42, 43]


def test_a_picture_that_cannot_be_saved_is_still_shown(history, tmp_path):
    history.pictures_dir.write_text("a file where the folder should be")
    result = drawn(studio(history, FakeClient(warnings=("3 words did not fit.",))))
    assert result.images.shape == (1, 256, 256, 3)
    assert result.files == ()
    assert result.warnings[0] == "3 words did not fit."
    assert "could not be saved" in result.warnings[1]


def test_it_is_busy_while_it_draws(history):
    line = studio(history, FakeClient())
    states = [line.busy for _ in line.generate(ASKED)]
    assert states[0]
    assert not line.busy
    unfinished = line.generate(ASKED)
    next(unfinished)
    unfinished.close()
    assert not line.busy


def test_half_a_surrogate_pair_does_no_harm(history):
    assert (
        drawn(studio(history, FakeClient()), ImageRequest("a \ud83c sea", steps=1)).request.prompt
        == "a ? sea"
    )

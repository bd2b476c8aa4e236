"""A pipeline's cancellation reaches another process, however the pipeline ends."""

from __future__ import annotations

import subprocess
import sys
import time

from triton_models.diffusion.cancel import CancelToken, CancelWatch

HOLDER = """
import sys, time
from triton_models.diffusion.cancel import CancelToken
token = CancelToken()
print(token.name, flush=True)
time.sleep(60)
"""


def test_nothing_is_cancelled_until_it_is() -> None:
    with CancelToken() as token:
        watch = CancelWatch(token.name)
        assert not watch.cancelled()
        token.cancel()
        assert watch.cancelled()
        assert watch.cancelled()
        watch.close()


def test_a_job_that_comes_late_is_cancelled() -> None:
    with CancelToken() as token:
        pass

    assert CancelWatch(token.name).cancelled()


def test_a_token_is_of_one_request() -> None:
    with CancelToken() as first, CancelToken() as second:
        watch = CancelWatch(second.name)
        first.cancel()
        assert not watch.cancelled()


def test_without_a_token_nobody_cancels() -> None:
    assert not CancelWatch("").cancelled()


def test_the_death_of_the_pipeline_cancels() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    watch = CancelWatch(holder.stdout.readline().strip())
    assert not watch.cancelled()
    holder.kill()
    holder.wait()
    holder.stdout.close()

    deadline = time.monotonic() + 5
    while not watch.cancelled() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watch.cancelled()

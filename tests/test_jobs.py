"""The queue: order, positions, cancelling, and that nothing stops it."""

import pytest
from fakes import MODEL, FakeClient, FakeServer

from studio.errors import ServerError
from studio.generate import Studio
from studio.history import History
from studio.jobs import FINISHED_KEPT, Job, Jobs
from studio.request import ImageRequest
from tests.patience import eventually


@pytest.fixture
def client():
    return FakeClient(seconds_per_step=0.005)


@pytest.fixture
def jobs(client, tmp_path):
    with (
        History(tmp_path) as history,
        Jobs(Studio(FakeServer(), MODEL, history, lambda address: client)) as queue,
    ):
        yield queue


def asked(seed: int = 1, steps: int = 3) -> ImageRequest:
    return ImageRequest("x", seed=seed, steps=steps, width=64, height=64)


def end(job: Job) -> Job:
    assert eventually(lambda: job.finished)
    return job


def test_fifty_requests_at_once_are_done_in_order(jobs, client):
    submitted = [jobs.submit(asked(seed)) for seed in range(50)]
    assert [jobs.ahead_of(job) for job in submitted[-2:]] == pytest.approx([48, 49], abs=2)
    for job in submitted:
        assert end(job).state == "done"
    assert [request.seed for request in client.asked] == list(range(50))
    assert len(jobs.of("")) == FINISHED_KEPT


def test_a_running_job_tells_its_progress_and_is_cancelled_within_a_step(jobs, client):
    job = jobs.submit(asked(steps=150))
    assert eventually(lambda: job.progress is not None and job.progress.step >= 3)
    jobs.cancel(job)
    assert end(job).state == "cancelled"
    assert client.steps_done < 10


def test_a_waiting_job_is_cancelled_without_being_started(jobs, client):
    running, waiting = jobs.submit(asked(1, steps=20)), jobs.submit(asked(2))
    jobs.cancel(waiting)
    assert waiting.state == "cancelled"
    assert end(running).state == "done"
    assert [request.seed for request in client.asked] == [1]


def test_an_error_is_the_jobs_and_the_next_one_runs(jobs, client):
    client.faults += [ServerError("The engine gave black pictures.", hint="Try again."), ZeroDivisionError()]
    first, second, third = (end(jobs.submit(asked(seed))) for seed in range(3))
    assert (first.state, first.error.hint) == ("failed", "Try again.")
    assert second.state == "failed"
    assert "unexpected" in second.error.what
    assert third.state == "done"


def test_a_picture_that_cannot_be_saved_ends_its_owners_queue_and_is_kept(jobs, client, tmp_path):
    (tmp_path / "pictures").write_text("in the way")
    unsaved, *waiting = (jobs.submit(asked(seed), "me") for seed in range(FINISHED_KEPT + 3))
    other = jobs.submit(asked(99), "you")
    assert not end(unsaved).result.saved
    assert "10 more waited" in unsaved.result.warnings[-1]
    assert {end(job).state for job in waiting} == {"cancelled"}
    assert end(other).state == "done"
    assert jobs.of("me")[0] is unsaved


def test_an_owner_finds_its_own(jobs):
    mine, other = jobs.submit(asked(), "me"), jobs.submit(asked(), "you")
    assert jobs.of("me") == [mine]
    assert jobs.get(other.id) is other
    assert end(mine).result.seeds == (1,)


def test_closing_cancels_everything(client, tmp_path):
    with History(tmp_path) as history:
        queue = Jobs(Studio(FakeServer(), MODEL, history, lambda address: client))
        submitted = [queue.submit(asked(steps=150)) for _ in range(3)]
        queue.close()
        assert [job.state for job in submitted] == ["cancelled"] * 3

"""The queue of pictures to make. Jobs are the studio's own: a page that goes away finds them again."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from types import TracebackType

from studio.errors import Cancelled, StudioError
from studio.generate import Studio
from studio.request import ImageRequest, ImageResult, Progress

logger = logging.getLogger(__name__)

# Finished jobs that a page may still come back for, with their pixels; their pictures are in the history.
FINISHED_KEPT = 8


@dataclass(eq=False)
class Job:
    """One request on its way. ``version`` grows whenever something about it changes."""

    id: int
    request: ImageRequest
    owner: str  # whose page asked, so that it can be found again after a reload
    asked_at: float = field(default_factory=time.perf_counter)
    cancel: threading.Event = field(default_factory=threading.Event)
    state: str = "waiting"  # "waiting", "running", "done", "failed" or "cancelled"
    progress: Progress | None = None
    result: ImageResult | None = None
    error: StudioError | None = None
    version: int = 0
    told: bool = False  # whether its page has seen how it ended

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def unsaved(self) -> bool:
        """Whether its pictures are nowhere but here."""
        return self.result is not None and not self.result.saved


class Jobs:
    """Runs requests in the order they were asked, ``workers`` at a time. Thread safe; a context manager."""

    def __init__(self, studio: Studio, workers: int = 1) -> None:
        self._studio = studio
        self._jobs: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._ids = itertools.count(1)
        self._changed = threading.Condition()  # over a lock that its holder may take again
        self._closed = False
        self._workers = [
            threading.Thread(target=self._work, name=f"jobs-{number}", daemon=True)
            for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def __enter__(self) -> Jobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, request: ImageRequest, owner: str = "") -> Job:
        """Put a request at the end of the queue."""
        with self._changed:
            job = Job(next(self._ids), request, owner)
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def get(self, job_id: int) -> Job | None:
        """The job of that number, while it is remembered."""
        with self._changed:
            return self._jobs.get(job_id)

    def of(self, owner: str) -> list[Job]:
        """The remembered jobs of one page, oldest first."""
        with self._changed:
            return [job for job in self._jobs.values() if job.owner == owner]

    def ahead_of(self, job: Job) -> int:
        """How many jobs come before this one; 0 when it is running or finished."""
        with self._changed:
            if job not in self._waiting:
                return 0
            running = sum(other.state == "running" for other in self._jobs.values())
            return self._waiting.index(job) + running

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop it within one step."""
        with self._changed:
            job.cancel.set()
            if job in self._waiting:
                self._waiting.remove(job)
                self._finish(job, "cancelled")

    def close(self) -> None:
        """Cancel everything and end the workers."""
        with self._changed:
            self._closed = True
            unfinished = [job for job in self._jobs.values() if not job.finished]
        for job in unfinished:
            self.cancel(job)
        with self._changed:
            self._changed.notify_all()
        for worker in self._workers:
            worker.join(timeout=10)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._waiting.popleft()
                job.state = "running"
                self._tell(job)
            self._run(job)

    def _run(self, job: Job) -> None:
        try:
            for item in self._studio.generate(job.request, job.cancel, asked_at=job.asked_at):
                with self._changed:
                    if isinstance(item, ImageResult):
                        job.result = item if item.saved else self._hold(item, job.owner)
                        self._finish(job, "done")
                    else:
                        job.progress = item
                        self._tell(job)
        except Cancelled:
            with self._changed:
                self._finish(job, "cancelled")
        except StudioError as error:
            self._fail(job, error)
        except Exception as error:  # the queue must outlive whatever a picture runs into
            logger.exception("A picture failed")
            self._fail(
                job,
                StudioError(
                    f"Something unexpected stopped this picture ({type(error).__name__}).",
                    state="Your settings are kept.",
                    hint="Press Generate to try again; the log has the details.",
                ),
            )

    def _hold(self, unsaved: ImageResult, owner: str) -> ImageResult:
        """End the owner's queue: the next picture would hide what could not be saved."""
        waiting = [job for job in self._waiting if job.owner == owner]
        for job in waiting:
            self.cancel(job)
        said = (f"{len(waiting)} more waited and were taken out of the queue.",) if waiting else ()
        return replace(unsaved, warnings=(*unsaved.warnings, *said))

    def _fail(self, job: Job, error: StudioError) -> None:
        with self._changed:
            job.error = error
            self._finish(job, "failed")

    def _finish(self, job: Job, state: str) -> None:
        job.state = state
        self._tell(job)
        for unsaved in (False, True):  # what is nowhere else must not go for what is
            alike = [other for other in self._jobs.values() if other.finished and other.unsaved is unsaved]
            for old in alike[:-FINISHED_KEPT]:
                del self._jobs[old.id]

    def _tell(self, job: Job) -> None:
        job.version += 1
        self._changed.notify_all()

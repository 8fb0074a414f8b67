"""Runs an increment in a separate process; if torch trains, a second one exports and commits.

This way, the calling app gets its memory back, and survives if the system kills the training because memory
runs out. A trained model is exported by a process that does not load torch. The processes inherit the home's
lock, so the lock is held as long as any of them is alive. They end when the process that started them ends:
the training stops after its next step and, if its plan allows checkpoints, saves its state. The work before
and after the training stops at its next report of progress. The commit begins once the process that started
them has taken its report without an error, and is then finished first.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ..errors import LwmEdgeError, ResourceError, StoppedError
from ..home.home import Home
from ..learning.config import IncrementConfig, MorePhotos
from ..records import ExactPath, Progress, ProgressCallback
from .process import replies_from, send_line, serve, started_process
from .reports import IncrementReport, LearntIncrement, Mistake, PlanReport, StagedIncrement
from .timing import Timer

if TYPE_CHECKING:
    from .values import UnwrittenModel

_SECONDS_BETWEEN_LOOKS = 0.005
_WORK_IN_PHASE = {
    "photos": "reading the photos",
    "plan": "planning",
    "features": "running the network on the photos",
    "evaluate": "evaluating",
    "stage": "writing the bundle",
    "commit": "exporting",
}


class Message(BaseModel):
    """Holds one reply of a worker: progress or, in the last message, the result."""

    progress: Progress | None = None
    plan: PlanReport | None = None
    staged: StagedIncrement | None = None
    report: IncrementReport | None = None
    mistakes: tuple[Mistake, ...] = ()  # sent separately, as the JSON of the reports leaves them out


class Job(BaseModel):
    """Tells a worker what to do: plan, learn, or commit a staged increment.

    Attributes:
        home: Path of the model home.
        photos: Path of the folder of photos.
        config: Settings of the increment.
        started: Value of time.monotonic() when the command or the call began.
        more: Settings for further photos of known classes; None for photos of new classes.
        dry_run: Whether to plan only.
        staged: Increment to commit; None if one is to be planned or learnt.
    """

    home: ExactPath
    photos: ExactPath = Path()
    config: IncrementConfig = IncrementConfig()
    started: float
    more: MorePhotos | None = None
    dry_run: bool = False
    staged: StagedIncrement | None = None


def run(job: Job, lock: int, on_progress: ProgressCallback) -> Message:
    """Runs a job in a new process, and returns its last message, which holds the result."""
    with started_process(__name__, job, lock=lock) as process:
        for message in replies_from(process, Message):
            if message.progress is None:
                return message
            on_progress(message.progress)
            if message.progress.phase == "commit":
                send_line(process)
    if process.returncode == -signal.SIGKILL:
        raise ResourceError(
            "the worker process was killed, most likely because memory ran out; the model is unchanged: "
            "try again with a lower --max-memory, or with other programs closed"
        )
    # While its libraries load, or if it only commits, a worker that is told to stop ends without a reply.
    if process.returncode in (-signal.SIGTERM, -signal.SIGINT):
        raise StoppedError("the worker process was told to stop; the model is unchanged")
    raise LwmEdgeError(f"the worker process ended with status {process.returncode}; the model is unchanged")


def main() -> None:
    """Runs the worker process."""
    serve(Job, _do_job)


def _do_job(job: Job, reply: Callable[[Message], None]) -> None:
    home = Home(job.home)
    if job.staged:
        timer = Timer(job.started, job.staged.seconds_by_part)
        _commit(
            home,
            job.staged,
            timer,
            None,
            reply,
            report_progress=lambda progress: reply(Message(progress=progress)),
            permits_commit=lambda: bool(os.read(0, 1)),
        )
        return
    from ..freed_memory import bound_allocator, drop_library_pages

    bound_allocator()
    caller = _Caller()
    should_stop = caller.wants_stop.is_set
    report_progress = stoppable_progress(reply, should_stop)
    from .learn import learn_classes, plan_learning

    timer = Timer(job.started)
    if job.dry_run:
        reply(Message(plan=plan_learning(home, job.photos, job.config, report_progress, timer, job.more)))
        return
    learnt, model = learn_classes(home, job.photos, job.config, report_progress, should_stop, timer, job.more)
    if isinstance(learnt, StagedIncrement):
        reply(Message(staged=learnt, mistakes=learnt.learning.mistakes))  # another process commits it
    else:
        drop_library_pages()  # most of these pages were needed only for learning
        _commit(home, learnt, timer, model, reply, report_progress, caller.permits_commit)


def _commit(
    home: Home,
    learnt: LearntIncrement,
    timer: Timer,
    model: UnwrittenModel | None,
    reply: Callable[[Message], None],
    report_progress: ProgressCallback,
    permits_commit: Callable[[], bool],
) -> None:
    from .commit import commit_increment, committing

    report_progress(committing(learnt))
    if not permits_commit():
        raise StoppedError("stopped before the commit; the model is unchanged: run the same command again")
    report = commit_increment(home, learnt, timer, model)
    reply(Message(report=report, mistakes=report.mistakes))


def stoppable_progress(reply: Callable[[Message], None], should_stop: Callable[[], bool]) -> ProgressCallback:
    """Makes a function that passes progress on and, outside the training, ends the work on request."""
    trained = ""

    def report_progress(progress: Progress) -> None:
        """Sends the progress; outside the training, raises StoppedError if the worker is to stop."""
        nonlocal trained
        with suppress(BrokenPipeError):  # nobody is listening any more, so `should_stop` will soon be true
            reply(Message(progress=progress))
        if progress.phase == "train":  # training itself checks whether to stop, after each step
            trained = ", after the training"
        elif should_stop():
            raise StoppedError(
                f"stopped while {_WORK_IN_PHASE[progress.phase]}{trained}; the model is unchanged: run the "
                "same command again"
            )

    return report_progress


class _Caller:
    """Listens to the process that started this one.

    Attributes:
        wants_stop: Event that is set by SIGTERM, or once that process has ended.
    """

    def __init__(self) -> None:
        self.wants_stop, self._allowed = threading.Event(), threading.Event()
        signal.signal(signal.SIGTERM, lambda number, frame: self.wants_stop.set())
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """Reads standard input, which ends once the process that started this one has ended."""
        while os.read(0, 4096):  # sys.stdin would hold a lock that must be free when the process ends
            self._allowed.set()
        self.wants_stop.set()

    def permits_commit(self) -> bool:
        """Waits until the process that started this one allows the commit, or wants it to stop."""
        while not (self.wants_stop.is_set() or self._allowed.is_set()):
            time.sleep(_SECONDS_BETWEEN_LOOKS)  # an Event's own wait could block the signal handler for ever
        return not self.wants_stop.is_set()

"""The worker of an increment: one process learns, another one exports and commits.

The embedding app gets its memory back, and survives should the system kill the training for memory; torch and
ONNX Runtime are never in memory together. Both processes inherit the home's lock, so it lives as long as any
of the three, and both end when the one that started them does: the learning at its next step, with what it
learnt saved.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from ..errors import LwmEdgeError, ResourceError, StoppedError
from ..home.home import Home
from ..learning.config import IncrementConfig
from ..records import ExactPath, Progress, ProgressCallback
from .commit import StagedIncrement, commit_increment
from .process import process_of_its_own, replies_of, serve
from .reports import IncrementReport, PlanReport


class Message(BaseModel):
    """What a worker says; the last time it is no progress."""

    progress: Progress | None = None
    plan: PlanReport | None = None
    staged: StagedIncrement | None = None
    report: IncrementReport | None = None


class Job(BaseModel):
    """What a worker is to do: plan, learn, or commit what was staged."""

    home: ExactPath
    photos: ExactPath = Path()
    config: IncrementConfig = IncrementConfig()
    dry_run: bool = False
    staged: StagedIncrement | None = None


def run(job: Job, lock: int, on_progress: ProgressCallback) -> Message:
    """Runs a job in a process of its own, and returns its last message."""
    with process_of_its_own(__name__, job, lock=lock) as process:
        for message in replies_of(process, Message):
            if message.progress is None:
                return message
            on_progress(message.progress)
    if process.returncode == -signal.SIGKILL:
        raise ResourceError(
            "the training process was killed, most likely because memory ran out; the model is unchanged: "
            "try again with a lower --max-memory, or with other programs closed"
        )
    raise LwmEdgeError(f"the training process ended with status {process.returncode}; the model is unchanged")


def main() -> None:
    """The worker process."""
    serve(Job, _do)


def _do(job: Job, reply: Callable[[Message], None]) -> None:
    home = Home(job.home)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then says to stop
    if job.staged:
        reply(Message(report=commit_increment(home, job.staged)))
        return
    from ..memory import bound_allocator

    bound_allocator()
    stop = _stop_request()
    from .learn import learn_classes, plan_learning

    def report_progress(progress: Progress) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more; the next step stops
            reply(Message(progress=progress))
        if stop.is_set() and progress.phase != "train":  # a step of training is asked after it
            raise StoppedError("stopped before the training; the model is unchanged")

    if job.dry_run:
        reply(Message(plan=plan_learning(home, job.photos, job.config)))
    else:
        reply(Message(staged=learn_classes(home, job.photos, job.config, report_progress, stop.is_set)))


def _stop_request() -> threading.Event:
    """Set by SIGTERM, or when the process that started this one has ended."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())

    def watch() -> None:
        while os.read(0, 4096):  # not through sys.stdin, whose lock must be free when the process ends
            pass
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    return stop

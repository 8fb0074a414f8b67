"""The worker process of an increment: one learns, another one exports and commits.

The embedding app gets its memory back, and survives should the system kill the training for memory; torch and
ONNX Runtime are never in memory together. The job goes in as a line of JSON; progress, result or error come
back so too. Both inherit the home's lock, so it lives as long as any of the three, and both end when
this one does: the learning at its next step, with what it learnt saved.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ValidationError

from .. import errors
from .._streams import forgiving_streams
from ..errors import LwmEdgeError, ResourceError, StoppedError
from ..home.home import Home
from ..learning.config import IncrementConfig
from ..records import ExactPath, Progress, ProgressCallback
from .commit import StagedIncrement, commit_increment
from .reports import IncrementReport, PlanReport

# As `python -m` would, but without the current folder on the path: a file there must not be run.
_START = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; from lwm_edge.increment.worker import main; main()"
)

# Threads that wait for each other asleep: spinning, they would take the cores from other programs, and each
# other's where those are busy.
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "passive"}


class _Failure(BaseModel):
    kind: str
    message: str
    problems: tuple[str, ...]
    traceback: str


class Message(BaseModel):
    """One line from a worker; the last one is no progress."""

    progress: Progress | None = None
    plan: PlanReport | None = None
    staged: StagedIncrement | None = None
    report: IncrementReport | None = None
    failure: _Failure | None = None


class Job(BaseModel):
    """What a worker is to do: plan, learn, or commit what was staged."""

    home: ExactPath
    photos: ExactPath = Path()
    config: IncrementConfig = IncrementConfig()
    dry_run: bool = False
    staged: StagedIncrement | None = None


def run(job: Job, lock: int, on_progress: ProgressCallback) -> Message:
    """Runs a job in a process of its own, and returns its last message."""
    command = [sys.executable, "-c", _START]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # the job; closed when this process ends, in whatever way
        stdout=subprocess.PIPE,
        pass_fds=(lock,),
        env={**PASSIVE_THREADS, **os.environ},
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(job.model_dump_json() + "\n")
            process.stdin.flush()
            for message in _messages(process):
                if message.progress:
                    on_progress(message.progress)
                elif message.failure:
                    raise _revive(message.failure)
                else:
                    return message
        except BaseException as error:
            process.terminate()
            if isinstance(error, KeyboardInterrupt):
                _wait_for_last_words(process)
            raise
    if process.returncode == -signal.SIGKILL:
        raise ResourceError(
            "the training process was killed, most likely because memory ran out; the model is unchanged: "
            "try again with a lower --max-memory, or with other programs closed"
        )
    raise LwmEdgeError(f"the training process ended with status {process.returncode}; the model is unchanged")


def _wait_for_last_words(process: subprocess.Popen[str]) -> None:
    """Lets a worker that was told to stop end its step and save, and raises what it says of that.

    Interrupted again, it is killed, and gone before this returns: the home is then cleared, and nothing may
    write beside that.
    """
    try:
        with suppress(ValidationError):  # of a line that the interrupt tore
            for message in _messages(process):
                if message.failure:
                    raise _revive(message.failure) from None
        process.communicate()  # a torn line is not its end
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise


def _messages(process: subprocess.Popen[str]) -> Iterator[Message]:
    assert process.stdout is not None
    return (Message.model_validate_json(line) for line in process.stdout)


def _revive(failure: _Failure) -> LwmEdgeError:
    kind: type[LwmEdgeError] = getattr(errors, failure.kind, LwmEdgeError)
    error = kind(failure.message, failure.problems)
    error.worker_traceback = failure.traceback
    return error


def _failure(error: Exception) -> _Failure:
    known = error if isinstance(error, LwmEdgeError) else errors.unexpected(error)
    text = "".join(traceback.format_exception(error))
    return _Failure(
        kind=type(known).__name__,
        message=_sendable(known.message),
        problems=tuple(_sendable(problem) for problem in known.problems),
        traceback=_sendable(text),
    )


def _sendable(text: str) -> str:
    """Text without what UTF-8 cannot say: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _read_line(descriptor: int) -> bytes:
    """Reads up to the first line's end, and nothing beyond what comes with it."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 65_536)
        if not piece:
            break
        line += piece
    return line


def main() -> None:
    """The worker process: the job is the first line of its input."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    with forgiving_streams():
        os.dup2(2, 1)  # what a vendor's module prints is no reply
        job = Job.model_validate_json(_read_line(0))
        try:
            _send(replies, _do(job, replies))
        except Exception as error:
            _send(replies, Message(failure=_failure(error)))


def _do(job: Job, replies: TextIO) -> Message:
    home = Home(job.home)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then says to stop
    if job.staged:
        return Message(report=commit_increment(home, job.staged))
    from ..memory import bound_allocator

    bound_allocator()
    stop = _stop_request()
    from .learn import learn_classes, plan_learning

    def report_progress(progress: Progress) -> None:
        _send(replies, Message(progress=progress))
        if stop.is_set() and progress.phase != "train":  # a step of training is asked after it
            raise StoppedError("stopped before the training; the model is unchanged")

    if job.dry_run:
        return Message(plan=plan_learning(home, job.photos, job.config))
    return Message(staged=learn_classes(home, job.photos, job.config, report_progress, stop.is_set))


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


def _send(replies: TextIO, message: Message) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more; the next step stops
        replies.write(message.model_dump_json() + "\n")

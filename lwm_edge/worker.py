"""`add_classes`: an increment in processes of its own, one that learns and one that exports and commits.

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

from . import errors
from ._streams import forgiving_streams
from .config import IncrementConfig
from .errors import LwmEdgeError, ResourceError, StoppedError
from .generation import StagedIncrement, commit_increment
from .home import AnyPath, Home, open_home
from .reports import ExactPath, IncrementReport, PlanReport, Progress, ProgressCallback, ignore_progress

# As `python -m` would, but without the current folder on the path: a file there must not be run.
_START = "import sys; sys.path[:] = [p for p in sys.path if p]; from lwm_edge.worker import main; main()"

# Threads that wait for each other asleep: spinning, they would take the cores from other programs, and each
# other's where those are busy.
PASSIVE_THREADS = {"OMP_WAIT_POLICY": "passive"}


class _Failure(BaseModel):
    kind: str
    message: str
    problems: tuple[str, ...]
    traceback: str


class _Message(BaseModel):
    """One line from a worker; the last one is no progress."""

    progress: Progress | None = None
    plan: PlanReport | None = None
    staged: StagedIncrement | None = None
    report: IncrementReport | None = None
    failure: _Failure | None = None


class _Job(BaseModel):
    """What a worker is to do: plan, learn, or commit what was staged."""

    home: ExactPath
    photos: ExactPath = Path()
    config: IncrementConfig = IncrementConfig()
    dry_run: bool = False
    staged: StagedIncrement | None = None


def add_classes(
    home: Home | AnyPath,
    photos: AnyPath,
    config: IncrementConfig | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
    wait: bool = False,
) -> IncrementReport:
    """Teaches a home's model new classes from photos of them alone.

    Until the last step, one rename, nothing that a reader of the home sees is changed. Interrupted (by
    Ctrl-C, a kill or a power cut), the same call goes on where it was, and ends in the same model.

    Args:
        home: The model home, or its folder.
        photos: Folder with one sub-folder of photos for each new class, named as the class.
        config: Settings; the defaults if None.
        on_progress: Called in this thread at every step.
        isolate: Run in processes of their own; False runs in this one.
        wait: For another process that changes the home to finish.

    Returns:
        The receipt, also in the home as receipt.json.

    Raises:
        PhotosError: The folder cannot be learnt from; lists every problem.
        BundleError: The home's bundle is damaged, or has no room (CapacityError).
        HomeError: The home is missing or cannot be written.
        ConfigError: The settings do not fit the model, or another increment was interrupted.
        GateError: The training diverged, or the new model is not good enough.
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
        ResourceError: Out of memory or disk.
        BusyError: Another process changes the home, and `wait` is not set.
        StoppedError: The worker was asked to stop.
        TrustError: The home's model does not verify against the key that the home trusts, or the key to sign
            with cannot be used.
    """
    home, photos = open_home(home), Path(photos)
    config = config or IncrementConfig()
    with home.lock(wait=wait) as lock:
        if not isolate:
            from .increment import learn_classes

            staged = learn_classes(home, photos, config, on_progress)
            on_progress(Progress(phase="commit", done=0, total=1))
            return commit_increment(home, staged)
        before = home.current()
        job = _Job(home=home.path, photos=photos.absolute(), config=config)
        learnt = _run(job, lock, on_progress)
        assert learnt.staged is not None
        on_progress(Progress(phase="commit", done=0, total=1))
        try:
            committed = _run(_Job(home=home.path, staged=learnt.staged), lock, on_progress)
        except (LwmEdgeError, KeyboardInterrupt) as error:
            if home.current() == before or _said_by_the_worker(error):
                raise  # the model is unchanged, or the disk did not confirm the change, which the error says
            return _receipt_left_in(home)
    assert committed.report is not None
    return committed.report


def _said_by_the_worker(error: BaseException) -> bool:
    return isinstance(error, LwmEdgeError) and bool(error.worker_traceback)


def _receipt_left_in(home: Home) -> IncrementReport:
    """The report of an increment whose process committed it, and ended before it could say so."""
    report = IncrementReport.model_validate_json(home.current().receipt.read_bytes())
    note = "the process that committed this ended before it could report it; this is the receipt that it left"
    return report.model_copy(update={"warnings": (*report.warnings, note)})


def plan_increment(
    home: Home | AnyPath, photos: AnyPath, config: IncrementConfig | None = None, *, wait: bool = False
) -> PlanReport:
    """What `add_classes` would take here: memory, time and disk. Nothing is trained or changed.

    Raises:
        LwmEdgeError: As `add_classes`; ResourceError where the memory limit is too small.
    """
    home, config = open_home(home), config or IncrementConfig()
    with home.lock(wait=wait) as lock:
        job = _Job(home=home.path, photos=Path(photos).absolute(), config=config, dry_run=True)
        planned = _run(job, lock, ignore_progress).plan
    assert planned is not None
    return planned


def _run(job: _Job, lock: int, on_progress: ProgressCallback) -> _Message:
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


def _messages(process: subprocess.Popen[str]) -> Iterator[_Message]:
    assert process.stdout is not None
    return (_Message.model_validate_json(line) for line in process.stdout)


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
        job = _Job.model_validate_json(_read_line(0))
        try:
            _send(replies, _do(job, replies))
        except Exception as error:
            _send(replies, _Message(failure=_failure(error)))


def _do(job: _Job, replies: TextIO) -> _Message:
    home = Home(job.home)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then says to stop
    if job.staged:
        return _Message(report=commit_increment(home, job.staged))
    from .memory import bound_allocator

    bound_allocator()
    stop = _stop_request()
    from .increment import learn_classes, plan_increment

    def report_progress(progress: Progress) -> None:
        _send(replies, _Message(progress=progress))
        if stop.is_set() and progress.phase != "train":  # a step of training is asked after it
            raise StoppedError("stopped before the training; the model is unchanged")

    if job.dry_run:
        return _Message(plan=plan_increment(home, job.photos, job.config))
    return _Message(staged=learn_classes(home, job.photos, job.config, report_progress, stop.is_set))


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


def _send(replies: TextIO, message: _Message) -> None:
    with suppress(BrokenPipeError):  # nobody listens any more; the next step stops
        replies.write(message.model_dump_json() + "\n")

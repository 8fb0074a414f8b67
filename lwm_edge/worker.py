"""`add_classes`: an increment in a process of its own.

The embedding app gets its memory back, and survives should the system kill the training for memory. The
job goes in on the command line; progress, report or error come back as JSON lines. The worker holds the
home's lock, so the lock dies with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel

from . import errors
from .config import IncrementConfig
from .errors import LwmEdgeError, ResourceError
from .home import AnyPath, Home, open_home
from .reports import IncrementReport, Progress, ProgressCallback, ignore_progress

# As `python -m` would, but without the current folder on the path: a file there must not be run.
_START = "import sys; sys.path[:] = [p for p in sys.path if p]; from lwm_edge.worker import main; main()"


class _Failure(BaseModel):
    kind: str
    message: str
    problems: tuple[str, ...]
    traceback: str


class _Message(BaseModel):
    progress: Progress | None = None
    report: IncrementReport | None = None
    failure: _Failure | None = None


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

    Until the last step, one rename, nothing that a reader of the home sees is changed.

    Args:
        home: The model home, or its folder.
        photos: Folder with one sub-folder of photos for each new class, named as the class.
        config: Settings; the defaults if None.
        on_progress: Called in this thread at every step.
        isolate: Run in a process of its own; False runs in this one.
        wait: For another process that changes the home to finish.

    Returns:
        The receipt, also in the home as receipt.json.

    Raises:
        PhotosError: The folder cannot be learnt from; lists every problem.
        BundleError: The home's bundle is damaged, or has no room (CapacityError).
        HomeError: The home is missing or cannot be written.
        ConfigError: The settings do not fit the model.
        GateError: The training diverged.
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
        ResourceError: Out of memory or disk.
        BusyError: Another process changes the home, and `wait` is not set.
    """
    home, photos = open_home(home), Path(photos)
    config = config or IncrementConfig()
    if not isolate:
        from .increment import learn_classes

        return learn_classes(home, photos, config, on_progress, wait=wait)
    job = [str(home.path), str(photos.absolute()), config.model_dump_json(), "wait" if wait else ""]
    return _run_worker([sys.executable, "-c", _START, *job], home, on_progress)


def _run_worker(command: list[str], home: Home, on_progress: ProgressCallback) -> IncrementReport:
    before = home.current()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                message = _Message.model_validate_json(line)
                if message.progress:
                    on_progress(message.progress)
                if message.failure:
                    raise _revive(message.failure)
                if message.report:
                    return message.report
        except BaseException:
            process.terminate()
            raise
    if home.current() != before:
        raise LwmEdgeError("the new classes were learnt, but the training process ended before its report")
    if process.returncode == -signal.SIGKILL:
        raise ResourceError(
            "the training process was killed, most likely because memory ran out; the model is unchanged: "
            "try again with a smaller micro-batch (--micro-batch-size), or with other programs closed"
        )
    raise LwmEdgeError(f"the training process ended with status {process.returncode}; the model is unchanged")


def _revive(failure: _Failure) -> LwmEdgeError:
    kind: type[LwmEdgeError] = getattr(errors, failure.kind, LwmEdgeError)
    error = kind(failure.message, failure.problems)
    error.worker_traceback = failure.traceback
    return error


def _failure(error: Exception) -> _Failure:
    known = error if isinstance(error, LwmEdgeError) else errors.unexpected(error)
    text = "".join(traceback.format_exception(error))
    return _Failure(kind=type(known).__name__, message=known.message, problems=known.problems, traceback=text)


def main() -> None:
    """The worker process: home, photos, settings and `wait` are its arguments."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(2 if sys.stderr else null, 1)  # what a vendor's module prints is no reply
    from .increment import learn_classes

    home, photos, config, wait = sys.argv[1:]

    def report_progress(progress: Progress) -> None:
        _send(replies, _Message(progress=progress))

    try:
        report = learn_classes(
            Home(Path(home)),
            Path(photos),
            IncrementConfig.model_validate_json(config),
            report_progress,
            wait=bool(wait),
        )
    except Exception as error:
        _send(replies, _Message(failure=_failure(error)))
    else:
        _send(replies, _Message(report=report))


def _send(replies: TextIO, message: _Message) -> None:
    replies.write(message.model_dump_json() + "\n")

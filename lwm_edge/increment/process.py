"""Runs a function of this package in a process of its own, and hears from it line by line.

The job goes in as a line of JSON. Replies come back the same way, and so does an error, with its traceback.
The input of the process stays open as long as the one that started it lives. Whatever it prints is not taken
for a reply: it goes to standard error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .. import errors
from .._streams import forgiving_streams
from ..errors import LwmEdgeError

# As `python -m` would, but without the current folder on the path: a file there must not be run.
_START = "import sys; sys.path[:] = [p for p in sys.path if p]; from {} import main; main()"

# Threads that wait for each other asleep: spinning, they would take the cores from other programs, and each
# other's where those are busy.
_PASSIVE_THREADS = {"OMP_WAIT_POLICY": "passive"}

Job = TypeVar("Job", bound=BaseModel)
Reply = TypeVar("Reply", bound=BaseModel)


class _Failure(BaseModel):
    kind: str
    message: str
    problems: tuple[str, ...]
    traceback: str


class _Line(BaseModel):
    reply: Any = None
    failure: _Failure | None = None


@contextmanager
def process_of_its_own(
    module: str, job: BaseModel, *, lock: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Starts a module's `main`, which calls `serve`. If the block raises, the process is told to end.

    Args:
        module: Its full name.
        job: What to do.
        lock: A file descriptor that the process inherits.

    Yields:
        The process, for `replies_of` to read; its exit status is known after the block.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _START.replace("{}", module)],
        stdin=subprocess.PIPE,  # the job; closed when this process ends, in whatever way
        stdout=subprocess.PIPE,
        pass_fds=() if lock is None else (lock,),
        env={**_PASSIVE_THREADS, **os.environ},
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(job.model_dump_json() + "\n")
            process.stdin.flush()
            yield process
        except BaseException as error:
            process.terminate()
            if isinstance(error, KeyboardInterrupt):
                _wait_for_last_words(process)
            raise


def replies_of(process: subprocess.Popen[str], kind: type[Reply]) -> Iterator[Reply]:
    """What the process says, until it ends.

    Raises:
        LwmEdgeError: What went wrong in it.
    """
    for line in _lines(process):
        if line.failure:
            raise _revived(line.failure)
        yield kind.model_validate(line.reply)


def serve(kind: type[Job], do: Callable[[Job, Callable[[BaseModel], None]], None]) -> None:
    """The other side: reads the job, does it, and sends what it has to say.

    Args:
        kind: Of the job.
        do: Takes the job and a function that sends a reply. The function raises BrokenPipeError once nobody
            listens any more.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")

    def send(line: _Line) -> None:
        replies.write(line.model_dump_json() + "\n")

    with forgiving_streams():
        os.dup2(2, 1)  # what a vendor's module prints is no reply
        job = kind.model_validate_json(_read_line(0))
        try:
            do(job, lambda reply: send(_Line(reply=reply.model_dump(mode="json"))))
        except BrokenPipeError:
            return
        except Exception as error:
            with suppress(BrokenPipeError):
                send(_Line(failure=_failure(error)))


def _wait_for_last_words(process: subprocess.Popen[str]) -> None:
    """Lets a worker that was told to stop end its step and save, and raises what it says of that.

    Interrupted again, it is killed, and gone before this returns: the home is then cleared, and nothing may
    write beside that.
    """
    try:
        with suppress(ValidationError):  # of a line that the interrupt tore
            for line in _lines(process):
                if line.failure:
                    raise _revived(line.failure) from None
        process.communicate()  # a torn line is not its end
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise


def _lines(process: subprocess.Popen[str]) -> Iterator[_Line]:
    assert process.stdout is not None
    return (_Line.model_validate_json(line) for line in process.stdout)


def _revived(failure: _Failure) -> LwmEdgeError:
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

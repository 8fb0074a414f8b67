"""Runs a module of this package in a new process, and reads its replies line by line.

The process gets its job as a line of JSON. It sends its replies in the same form, and any error with its
traceback. Its standard input stays open for as long as the process that started it lives. Whatever else it
prints goes to standard error, so that nothing can be mistaken for a reply.
"""

from __future__ import annotations

import os
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .. import errors
from .._processes import start_process
from .._streams import forgiving_streams
from ..errors import LwmEdgeError, os_failure
from ..processors import thread_settings
from ..records import utf8_text

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
def started_process(
    module: str, job: BaseModel, *, lock: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a process that runs a module's `main`, which calls `serve`; stops it if the block raises.

    Args:
        module: Full name of the module.
        job: Job that the process gets.
        lock: File descriptor of the home's lock, which the process inherits; None if it needs no lock.

    Yields:
        The process, from which `replies_from` reads; its exit status is known after the block.
    """
    try:
        process = start_process(module, environment=thread_settings(), descriptor=lock)
    except OSError as error:
        raise os_failure("start", "a process that learns", error) from error
    with process:
        try:
            send_line(process, job.model_dump_json())
            yield process
        except BaseException as error:
            process.terminate()
            if isinstance(error, KeyboardInterrupt):
                _wait_until_saved(process)
            raise


def send_line(process: subprocess.Popen[bytes], text: str = "") -> None:
    """Sends a line to a process; an empty one may be what it waits for."""
    assert process.stdin is not None
    left = memoryview(text.encode() + b"\n")
    with suppress(BrokenPipeError):  # the process has already ended; its exit status will say so
        while left:  # not through the buffer, as closing it would raise the error again
            left = left[os.write(process.stdin.fileno(), left) :]


def replies_from(process: subprocess.Popen[bytes], kind: type[Reply]) -> Iterator[Reply]:
    """Yields the replies of a process until it ends.

    Raises:
        LwmEdgeError: The process reported this error.
    """
    for line in _lines(process):
        if line.failure:
            raise _error_from(line.failure)
        yield kind.model_validate(line.reply)


def serve(kind: type[Job], do: Callable[[Job, Callable[[BaseModel], None]], None]) -> None:
    """Runs in the started process: reads the job, does it, and sends the replies or the error.

    Args:
        kind: Class of the job.
        do: Function that takes the job and another function, which sends a reply and raises BrokenPipeError
            once nobody is listening any more.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")

    def send(line: _Line) -> None:
        """Sends one line to the process that started this one."""
        replies.write(line.model_dump_json() + "\n")

    with forgiving_streams():
        os.dup2(2, 1)  # what a vendor's module prints must not look like a reply
        line = _read_line(0)
        if not line.endswith(b"\n"):  # the process that started this one has ended
            return
        job = kind.model_validate_json(line)
        try:
            do(job, lambda reply: send(_Line(reply=reply.model_dump(mode="json"))))
        except BrokenPipeError:
            return
        except Exception as error:
            with suppress(BrokenPipeError):
                send(_Line(failure=_failure_from(error)))


def _wait_until_saved(process: subprocess.Popen[bytes]) -> None:
    """Waits until a stopping worker has finished its step and saved, and raises the error that it reports.

    A second interruption kills the worker. The home is cleaned up only once the worker is gone, so that the
    worker cannot write to it at the same time.
    """
    try:
        with suppress(ValidationError):  # the interrupt may have cut a line in two
            for line in _lines(process):
                if line.failure:
                    raise _error_from(line.failure) from None
        process.communicate()  # after half a line, the process may still be running
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise


def _lines(process: subprocess.Popen[bytes]) -> Iterator[_Line]:
    assert process.stdout is not None
    return (_Line.model_validate_json(line) for line in process.stdout)


def _error_from(failure: _Failure) -> LwmEdgeError:
    kind: type[LwmEdgeError] = getattr(errors, failure.kind, LwmEdgeError)
    error = kind(failure.message, failure.problems)
    error.worker_traceback = failure.traceback
    return error


def _failure_from(error: Exception) -> _Failure:
    known = errors.known(error)
    text = "".join(traceback.format_exception(error))
    return _Failure(
        kind=type(known).__name__,
        message=utf8_text(known.message),
        problems=tuple(utf8_text(problem) for problem in known.problems),
        traceback=utf8_text(text),
    )


def _read_line(descriptor: int) -> bytes:
    """Reads one line; if the input ends before the line does, returns what was read."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 65_536)
        if not piece:
            break
        line += piece
    return line

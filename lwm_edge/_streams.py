"""Keeps a command going when standard output or standard error cannot be written to.

Without this, a command that has already changed the model would fail if its report could not be printed, and
whoever reads the exit code would make the change again.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, cast


class ForgivingStream:
    """Writes text to a stream until the first failure, and discards whatever is written after that.

    Characters that the stream's encoding lacks are escaped.

    Args:
        stream: Stream to write to; None if the process was started without one.

    Attributes:
        failure: First failure of the stream; None as long as the text arrives.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None else Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        self.failure = None if stream is not None else OSError(errno.EBADF, "it is closed")
        if isinstance(self._stream, TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Writes text, or discards it after a failure."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self.give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flushes what was written."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Discards all text from now on, buffered text too, so that the process can end without an error."""
        self.failure = error
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Makes printing in the block always succeed; `output_failure` says why text was lost, if any was."""
    _open_missing()
    before = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, ForgivingStream(sys.stdout))
    sys.stderr = cast(TextIO, ForgivingStream(sys.stderr))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def output_failure() -> OSError | None:
    """Returns why text did not reach standard output; None if all of it did, or if its reader went away."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure


def write_stdout(content: bytes) -> None:
    """Writes bytes to standard output; stops quietly if the reader goes away.

    Raises:
        OSError: The bytes, or some of them, cannot be written.
    """
    if failure := output_failure():
        raise failure
    stream, left = getattr(sys.stdout, "buffer", None), memoryview(content)
    if stream is None:
        raise OSError(errno.EBADF, "it does not accept bytes")
    try:
        while left:  # a raw stream, as under `python -u`, may take only a part
            taken = stream.write(left)
            if taken is None:
                raise BlockingIOError(errno.EAGAIN, "it cannot accept more right now")
            left = left[taken:]
        stream.flush()
    except OSError as error:
        if isinstance(sys.stdout, ForgivingStream):
            sys.stdout.give_up(error)
        if not isinstance(error, BrokenPipeError):
            raise


def _open_missing() -> None:
    """Opens any closed standard descriptors, so that no file of ours is given one of their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

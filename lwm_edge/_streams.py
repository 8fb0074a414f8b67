"""Standard output and standard error may be full or gone; what was done counts, not whether it could be told.

Without this, a report that cannot be printed would end a command that has already changed the model with an
error, and whoever reads the exit code would make the change again.
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
    """A text stream that keeps its first failure to itself and swallows whatever is written after it.

    What the stream's encoding cannot say is escaped.

    Args:
        stream: The stream; None where the process was started without one.

    Attributes:
        failure: Why the text went nowhere; None as long as it arrives.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream if stream is not None else Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        self.failure = None if stream is not None else OSError(errno.EBADF, "it is closed")
        if isinstance(self._stream, TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Writes text, or swallows it."""
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self.give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hands over what was written."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Swallows from now on; what is still buffered goes nowhere, so that the process can end in peace."""
        self.failure = error
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Within, neither printing to standard output nor to standard error fails; `output_failure` tells."""
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
    """Why what was printed did not arrive. A reader that went away has read enough, and is no failure."""
    sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure


def write_stdout(content: bytes) -> None:
    """Writes bytes to standard output; a reader that goes away ends it quietly.

    Raises:
        OSError: They cannot be written, or not all of them.
    """
    if failure := output_failure():
        raise failure
    stream, left = getattr(sys.stdout, "buffer", None), memoryview(content)
    if stream is None:
        raise OSError(errno.EBADF, "it takes no bytes")
    try:
        while left:  # a raw stream, as `python -u` has them, may take a part only
            taken = stream.write(left)
            if taken is None:
                raise BlockingIOError(errno.EAGAIN, "it takes no more at this moment")
            left = left[taken:]
        stream.flush()
    except OSError as error:
        if isinstance(sys.stdout, ForgivingStream):
            sys.stdout.give_up(error)
        if not isinstance(error, BrokenPipeError):
            raise


def _open_missing() -> None:
    """Opens the standard descriptors that are closed, so that no file of ours gets one of their numbers."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

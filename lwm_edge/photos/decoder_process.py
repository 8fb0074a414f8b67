"""Has costly photos decoded in one other process, `decoder`, which is started when the first of them comes.

It serves all threads of this process, one photo at a time. After ten seconds without a photo it is gone.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from .._processes import start_process
from ..errors import ConfigError, PhotosError, os_failure
from ..records import absolute
from . import guard
from .guard import MIB
from .pixels import Pixels

MIN_BYTES = 64 * MIB
"""Memory with which the process can decode an ordinary photo; some 35 MiB are Python, NumPy and Pillow."""

_SECONDS_BETWEEN_LOOKS = 0.1  # at the process; then `on_wait` is called, too

# It has one thread and gives memory back as soon as it is free, so that a limit counts what a photo takes.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
_TOO_LONG = "takes more than {} seconds of processor time"


class OutOfRoomError(PhotosError):
    """Signals that a photo could not be decoded in the memory that was allowed."""


@dataclass
class DecoderProcess:
    """Starts the process when it is needed, and asks it.

    Attributes:
        resident_bytes: Resident memory of the process when it last answered; 0 while there is none.
        peak_bytes: Highest resident memory since `forget_peak`.
    """

    resident_bytes: int = 0
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def decode(
        self,
        path: Path,
        image_size: int,
        resize_size: int,
        most_bytes: int,
        on_wait: Callable[[], None] = guard.wait_on,
    ) -> Pixels:
        """Decodes a photo as `decoding.decode` does, within limits that bind.

        Args:
            path: Path of the photo.
            image_size: Height and width of the result.
            resize_size: Length of the photo's short side before the cut.
            most_bytes: Bytes that the process may take, itself included.
            on_wait: Function that is called a few times a second. What it raises ends the process, and comes
                out as it is.

        Raises:
            PhotosError: The photo cannot be decoded within the limits; the message says why.
            OutOfRoomError: More memory might help.
            LwmEdgeError: The system starts no process.
        """
        job = {
            "path": os.fsencode(absolute(path)).decode("latin-1"),
            "image_size": image_size,
            "resize_size": resize_size,
            "most_bytes": most_bytes,
            "seconds": guard.MAX_SECONDS,
        }
        with self._locked(on_wait):
            try:
                reply, content = self._ask(job, on_wait)
                self._note_usage(reply)
            except BaseException:  # after an interruption, a late reply would pass for the next photo's
                self._end()
                raise
        limit = f"more than {most_bytes // MIB} MiB of memory to decode"
        if reply.get("out_of_memory"):
            raise OutOfRoomError(f"takes {limit}")
        if said := reply.get("decoder_says"):  # many decoders do not tell a lack of memory from damage
            raise OutOfRoomError(f"is damaged, or takes {limit} ({said})")
        if problem := reply.get("problem"):
            raise PhotosError(problem)
        return np.frombuffer(content, np.uint8).reshape(image_size, image_size, 3)

    def _note_usage(self, reply: dict[str, Any]) -> None:
        self.resident_bytes = reply["resident_bytes"]
        self.peak_bytes = max(self.peak_bytes, reply["peak_bytes"])
        if self.resident_bytes > MIN_BYTES:  # the next photo could not use what the allocator keeps in pieces
            self._end()

    def forget_peak(self) -> None:
        """Starts to measure the peak anew."""
        self.peak_bytes = 0

    def end(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process, self.resident_bytes = self._process, None, 0
        if process:
            process.kill()
            with process:  # closes the pipes and waits
                pass

    @contextmanager
    def _locked(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Waits until the process has no other photo to decode."""
        while not self._lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
            on_wait()
        try:
            yield
        finally:
            self._lock.release()

    def _ask(self, job: dict[str, Any], on_wait: Callable[[], None]) -> tuple[dict[str, Any], bytes]:
        answer = self._exchange(job, on_wait) or self._exchange(job, on_wait)
        if answer is None:
            raise PhotosError("cannot be decoded: the process that decodes photos ends at once")
        return answer

    def _exchange(
        self, job: dict[str, Any], on_wait: Callable[[], None]
    ) -> tuple[dict[str, Any], bytes] | None:
        """Asks the process; returns None if it had ended before, for want of photos to decode."""
        process = self._started()
        assert process.stdin and process.stdout
        line = b""
        with suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), json.dumps(job).encode() + b"\n")  # a short line goes as a whole
            line = self._line(process, job, on_wait)
        if not line.endswith(b"\n"):
            status = process.wait()
            self._end()
            if status == 0:
                return None
            raise PhotosError(_why_it_ended(status))
        reply: dict[str, Any] = json.loads(line)
        content = process.stdout.read(reply["length"])
        if len(content) < reply["length"]:
            raise PhotosError(_why_it_ended(process.wait()))
        return reply, content

    def _line(
        self, process: subprocess.Popen[bytes], job: dict[str, Any], on_wait: Callable[[], None]
    ) -> bytes:
        """Reads the answer's first line in a thread, as not every system can wait for a pipe otherwise."""
        assert process.stdout
        began = _usage(process.pid)
        with ThreadPoolExecutor(1) as reader:
            line = reader.submit(process.stdout.readline)
            try:
                on_wait()  # once at least, however fast the answer is
                while not wait([line], timeout=_SECONDS_BETWEEN_LOOKS).done:
                    _require_within_limits(_usage(process.pid), began, job)
                    on_wait()
            except BaseException:
                process.kill()  # which ends the reading
                raise
            return line.result()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = start_process(
                    f"{__package__}.decoder",
                    environment=_ENVIRONMENT,
                    blocked=(signal.SIGINT, signal.SIGTERM),
                )
            except ConfigError as error:
                raise PhotosError(
                    "may take much memory, so it is only decoded in a process of its own, which cannot be "
                    f"started: {error.message}"
                ) from None
            except OSError as error:
                raise os_failure("start", "a process that decodes photos", error) from error
        return self._process


def _usage(pid: int) -> tuple[int, float]:
    """Returns the resident memory and the processor time of a process; zeros where neither is known."""
    with suppress(OSError, psutil.Error):
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    return 0, 0.0


def _require_within_limits(usage: tuple[int, float], began: tuple[int, float], job: dict[str, Any]) -> None:
    """Holds a photo to its limits where the system does not: outside Linux, no limit of memory binds.

    Raises:
        OutOfRoomError: The process takes more memory than it may.
        PhotosError: It takes more processor time.
    """
    if usage[0] > job["most_bytes"]:
        raise OutOfRoomError(f"takes more than {job['most_bytes'] // MIB} MiB of memory to decode")
    if usage[1] - began[1] > job["seconds"] + 1:  # where the system counts, it is first
        raise PhotosError(_TOO_LONG.format(job["seconds"]))


def _why_it_ended(status: int) -> str:
    name = {-int(known): known.name for known in signal.Signals}.get(status)
    if name == "SIGXCPU":
        return _TOO_LONG.format(guard.MAX_SECONDS)
    if name == "SIGKILL":
        return "cannot be decoded: its process was killed, most likely because the machine's memory ran out"
    return f"cannot be decoded: its process ended with status {status}"


DECODER = DecoderProcess()
"""The one decoder of this process."""


def _start_over_in_child() -> None:
    """Leaves the decoder to the process that started it; a forked one starts another if it needs one."""
    process = DECODER._process
    DECODER.__init__()  # type: ignore[misc]
    if process:
        process.returncode = 0  # it is no child of this process, so there is nothing to wait for
        for pipe in (process.stdin, process.stdout):
            pipe.raw.close()  # type: ignore[union-attr]  # past the buffer, which another thread may have locked


atexit.register(DECODER.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over_in_child)

"""Decodes costly photos in a separate process (`decoder`), which starts when the first one arrives.

It serves all threads of the process that started it, one photo at a time. Except on Windows, it ends after
ten seconds without a photo.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from .._processes import start_process
from ..errors import ConfigError, PhotosError, ResourceError, os_failure
from ..records import absolute
from . import guard
from .decoder import Job, Reply, to_line
from .guard import MIB
from .pixels import Pixels

MIN_BYTES = 64 * MIB
"""Memory in which the process can decode an ordinary photo; Python and libraries take some 35 MiB of it."""

_SECONDS_BETWEEN_LOOKS = 0.1  # between checks of the process, and between calls of `on_wait`

# With these, neither extra threads nor memory left over from earlier photos counts against a photo's limit.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
_CANNOT_BE_STARTED = (
    "may take a lot of memory, so it is decoded only in a separate process, which cannot be started: {}"
)
_TOO_LONG = "takes more than {} seconds of processor time"


class OutOfRoomError(PhotosError):
    """Signals that a photo could not be decoded in the memory that was allowed."""


@dataclass
class DecoderProcess:
    """Starts the process when it is needed, and gives it photos to decode.

    Attributes:
        resident_bytes: Resident memory of the process when it last answered; 0 if it has not answered yet,
            if this object ended it, or if the system does not say.
        peak_bytes: Highest resident memory since `forget_peak`.
        may_be_needed: Whether any photo since `forget_peak` would be decoded in the separate process if
            memory were scarce.
    """

    resident_bytes: int = 0
    peak_bytes: int = 0
    may_be_needed: bool = False

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
        """Decodes a photo as `decoding.decode` does, within hard limits.

        Args:
            path: Path of the photo.
            image_size: Height and width of the result.
            resize_size: Length of the photo's short side before the crop.
            most_bytes: Largest number of bytes that the process may take for itself and the photo.
            on_wait: Function that is called about ten times a second. What it raises ends the call, and is
                passed on unchanged.

        Returns:
            RGB [image_size, image_size, 3] uint8.

        Raises:
            PhotosError: The photo is damaged or exceeds a limit, or the process cannot run here; the message
                says why.
            OutOfRoomError: There was too little memory, so more might be enough, or the photo is damaged in a
                way that its decoder cannot tell from a lack of memory.
            ResourceError: The system has too little memory, or too many processes, to start the process.
        """
        whole_path = os.fsencode(absolute(path)).decode("latin-1")
        job = Job(whole_path, image_size, resize_size, most_bytes, guard.MAX_SECONDS)
        with self._locked(on_wait):
            try:
                reply, content = self._ask(job, on_wait)
                self._note_usage(reply)
            except BaseException:  # after an interruption, a late reply could be mistaken for another photo's
                self._end()
                raise
        limit = f"more than {most_bytes // MIB} MiB of memory to decode"
        if reply.out_of_memory:
            raise OutOfRoomError(f"takes {limit}")
        if reply.decoder_says:  # many decoders cannot tell a lack of memory from damage
            raise OutOfRoomError(f"is damaged, or takes {limit} ({reply.decoder_says})")
        if reply.problem:
            raise PhotosError(reply.problem)
        return np.frombuffer(content, np.uint8).reshape(image_size, image_size, 3)

    def _note_usage(self, reply: Reply) -> None:
        self.resident_bytes = reply.resident_bytes
        self.peak_bytes = max(self.peak_bytes, reply.peak_bytes)
        if self.resident_bytes > MIN_BYTES:  # the allocator keeps pieces that are of no use to other photos
            self._end()

    def forget_peak(self) -> None:
        """Starts measuring the peak afresh."""
        self.peak_bytes, self.may_be_needed = 0, False

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
        """Waits until no other thread uses the process, and keeps other threads out during the block."""
        while not self._lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
            on_wait()
        try:
            yield
        finally:
            self._lock.release()

    def _ask(self, job: Job, on_wait: Callable[[], None]) -> tuple[Reply, bytes]:
        answer = self._exchange(job, on_wait) or self._exchange(job, on_wait)
        if answer is None:
            raise PhotosError("cannot be decoded: the process that decodes photos ends as soon as it starts")
        return answer

    def _exchange(self, job: Job, on_wait: Callable[[], None]) -> tuple[Reply, bytes] | None:
        """Gives the process a job; returns None if the process had already ended because it was idle."""
        process = self._started()
        assert process.stdin and process.stdout
        line = b""
        with suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), to_line(job))  # short, so written in one go
            line = self._line(process, job, on_wait)
        if not line.endswith(b"\n"):
            status = process.wait()
            self._end()
            if status == 0:
                return None
            raise PhotosError(_why_it_ended(status))
        reply = Reply(**json.loads(line))
        content = process.stdout.read(reply.length)
        if len(content) < reply.length:
            raise PhotosError(_why_it_ended(process.wait()))
        return reply, content

    def _line(self, process: subprocess.Popen[bytes], job: Job, on_wait: Callable[[], None]) -> bytes:
        """Reads the answer's first line, in a thread, as not every system can read a pipe with a timeout."""
        assert process.stdout
        began = _usage(process.pid)
        with ThreadPoolExecutor(1) as reader:
            line = reader.submit(process.stdout.readline)
            try:
                on_wait()  # at least once, however fast the answer comes
                while not wait([line], timeout=_SECONDS_BETWEEN_LOOKS).done:
                    _require_within_limits(_usage(process.pid), began, job)
                    on_wait()
            except BaseException:
                process.kill()  # this ends the reading too
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
                raise PhotosError(_CANNOT_BE_STARTED.format(error.message)) from None
            except OSError as error:
                failure = os_failure("start", "a process that decodes photos", error)
                if isinstance(failure, ResourceError):
                    raise failure from error
                raise PhotosError(
                    _CANNOT_BE_STARTED.format(
                        f"the system refuses to run {sys.executable} ({error.strerror}); let this user "
                        "run it, or set sys.executable to another Python that has lwm_edge installed"
                    )
                ) from error
        return self._process


def _usage(pid: int) -> tuple[int, float]:
    """Returns the resident memory and the processor time of a process; zeros if the system does not say."""
    with suppress(OSError, psutil.Error):
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_info().rss, times.user + times.system
    return 0, 0.0


def _require_within_limits(usage: tuple[int, float], began: tuple[int, float], job: Job) -> None:
    """Enforces a photo's limits where the system does not; only Linux enforces the memory limit.

    Raises:
        OutOfRoomError: The process takes more memory than it may.
        PhotosError: The process takes more processor time than it may.
    """
    if usage[0] > job.most_bytes:
        raise OutOfRoomError(f"takes more than {job.most_bytes // MIB} MiB of memory to decode")
    if usage[1] - began[1] > job.seconds + 1:  # a system that enforces the limit gets there first
        raise PhotosError(_TOO_LONG.format(job.seconds))


def _why_it_ended(status: int) -> str:
    name = {-int(known): known.name for known in signal.Signals}.get(status)
    if name == "SIGXCPU":
        return _TOO_LONG.format(guard.MAX_SECONDS)
    if name == "SIGKILL":
        return "cannot be decoded: its process was killed, most likely because the machine's memory ran out"
    return f"cannot be decoded: its process ended with status {status}"


DECODER = DecoderProcess()
"""The one separate process that decodes photos for the current process."""


def _start_over_in_child() -> None:
    """Makes a forked process leave its parent's decoder alone, and start another if it needs one."""
    process = DECODER._process
    DECODER.__init__()  # type: ignore[misc]
    if process:
        process.returncode = 0  # it is not a child of this process, so there is nothing to wait for
        for pipe in (process.stdin, process.stdout):
            pipe.raw.close()  # type: ignore[union-attr]  # not the buffer: another thread may have locked it


atexit.register(DECODER.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over_in_child)

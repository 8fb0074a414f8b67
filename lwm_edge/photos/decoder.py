"""Decodes costly photos in a separate process, within hard limits on memory and processor time.

Pillow passes a file to its decoders in blocks. A decoder cannot be interrupted within a block, and how much
memory and time some decoders need cannot be known beforehand.

The process is given one job after another, each as a line of JSON. It answers with a line of JSON and then
the pixels, if there are any. It ends with its parent (the process that started it) or, except on Windows,
after ten seconds without a job. It is also ended if a photo takes more processor time than is allowed.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image

from ..errors import PhotosError
from .decoding import UndecodableError, decode
from .guard import MIB
from .opening import load_reader_of

try:
    import fcntl
    import resource
except ImportError:  # Windows, where the parent watches the memory and the time that this process takes
    fcntl = resource = None  # type: ignore[assignment]

_IDLE_SECONDS = 10
_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LIBRARY_BYTES = 8 * MIB  # code that is mapped already, but perhaps loaded only when the photo is decoded
# Address space that is assumed to be in use before a photo is decoded, if the system does not say.
_ASSUMED_ADDRESSES = 192 * MIB


class Job(NamedTuple):
    """Asks for one photo.

    Attributes:
        path: Absolute path of the photo, with each of its bytes as one character.
        image_size: Height and width of the result.
        resize_size: Length of the photo's short side before the crop.
        most_bytes: Largest number of bytes that this process may take for itself and the photo.
        seconds: Largest number of seconds of processor time for the photo.
    """

    path: str
    image_size: int
    resize_size: int
    most_bytes: int
    seconds: int


class Reply(NamedTuple):
    """Answers a job.

    Attributes:
        length: Number of bytes of pixels that follow; 0 if the photo was not decoded.
        resident_bytes: Resident memory of this process; 0 if the system does not say.
        peak_bytes: Highest resident memory while the photo was decoded; 0 if the system does not say.
        problem: What is wrong with the photo; empty if nothing is.
        decoder_says: Error of a decoder, which may mean damage or too little memory; empty if there is none.
        out_of_memory: Whether there was too little memory.
    """

    length: int = 0
    resident_bytes: int = 0
    peak_bytes: int = 0
    problem: str = ""
    decoder_says: str = ""
    out_of_memory: bool = False


def to_line(message: Job | Reply) -> bytes:
    """Writes a job or a reply as a line of JSON."""
    return json.dumps(message._asdict()).encode() + b"\n"


def main() -> None:
    """Decodes photos for as long as the parent asks for them."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    if resource:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would leave a photo on the disk
    Image.preinit()  # loads what would otherwise be loaded for, and counted against, the first photo
    jobs = os.fdopen(0, "rb")
    while _has_job(jobs) and (line := jobs.readline()).endswith(b"\n"):
        job = Job(**json.loads(line))
        pixels, reply = b"", Reply()
        try:
            path = Path(os.fsdecode(job.path.encode("latin-1")))
            with suppress(OSError):  # decoding raises it again and explains it
                load_reader_of(path)
            with _limited(job.most_bytes, job.seconds), _ended_with_parent():
                pixels = decode(path, job.image_size, job.resize_size).tobytes()
        except UndecodableError as error:
            reply = Reply(problem=error.message, decoder_says=error.why)
        except PhotosError as error:
            reply = Reply(problem=error.message)
        except MemoryError:
            reply = Reply(out_of_memory=True)
        resident, peak = _kernel_says("VmRSS"), _kernel_says("VmHWM")
        reply = reply._replace(length=len(pixels), resident_bytes=resident, peak_bytes=peak)
        try:
            replies.write(to_line(reply) + pixels)
            replies.flush()
        except BrokenPipeError:
            os._exit(0)  # a normal exit would try to write once more


def _has_job(jobs: IO[bytes]) -> bool:
    """Waits for a job for as long as the process may be idle; returns whether there is one.

    On a system that cannot wait for pipes, it returns True at once, and reading the job waits without limit.
    """
    return os.name != "posix" or bool(select.select([jobs], [], [], _IDLE_SECONDS)[0])


@contextmanager
def _limited(most_bytes: int, seconds: int) -> Iterator[None]:
    """Limits the total memory of this process, and its processor time from now on."""
    if not resource:
        yield
        return
    with suppress(OSError):
        _FORGET_PEAK.write_text("5")
    addresses, resident = _kernel_says("VmSize") or _ASSUMED_ADDRESSES, _kernel_says("VmRSS")
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds)
    _limit(resource.RLIMIT_AS, addresses + max(0, most_bytes - resident - _LIBRARY_BYTES))
    try:
        yield
    finally:
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)


def _limit(kind: int, most: int) -> None:
    """Sets a limit, but never above the hard limit; does nothing if the system refuses."""
    _, hard = resource.getrlimit(kind)
    allowed = [limit for limit in (most, hard) if limit != resource.RLIM_INFINITY]
    with suppress(OSError, ValueError):
        resource.setrlimit(kind, (min(allowed, default=resource.RLIM_INFINITY), hard))


def _kernel_says(field: str) -> int:
    """Returns one of the kernel's figures for this process's memory, in bytes; 0 where there is none."""
    with suppress(OSError):
        found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    return 0


@contextmanager
def _ended_with_parent() -> Iterator[None]:
    """Makes the system end this process at once if its standard input closes; see fcntl(2), O_ASYNC.

    The system then sends SIGIO, which ends any process that does not handle it. On systems other than Linux,
    the process ends once the photo is decoded.
    """
    if not fcntl:
        yield
        return
    before: Any = fcntl.fcntl(0, fcntl.F_GETFL)
    with suppress(OSError, AttributeError):
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, before | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, before)

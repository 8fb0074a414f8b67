"""Helps tests with hostile input: limits on memory and time, an ordinary user, and the published counts."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lwm_edge import inspection
from lwm_edge.memory import peak_rss_bytes, reset_peak_rss
from lwm_edge.photos.decoder_process import DECODER

README = Path(__file__).parents[1] / "README.md"
_HANGS_AFTER_S = 60


@contextmanager
def memory_bound(most_bytes: int, mapped_bytes: int = 0) -> Iterator[None]:
    """Limits the block's address space, and checks that its resident memory grew by at most `most_bytes`.

    The process that decodes costly photos may take up to `most_bytes` in all. Files that the block maps need
    address space for their whole length (`mapped_bytes`), but memory only for the parts that are read.
    """
    DECODER.forget_peak()
    process = psutil.Process()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (process.memory_info().vms + 4 * most_bytes + mapped_bytes, hard))
    measurable, before = reset_peak_rss(), process.memory_info().rss
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    taken = peak_rss_bytes() - before
    taken = max(taken, DECODER.peak_bytes)
    assert not measurable or taken <= most_bytes, f"{taken / 2**20:.0f} MiB were taken"


@contextmanager
def no_hang() -> Iterator[None]:
    """Fails the block if it is still busy after a minute."""

    def hangs(number: int, frame: Any) -> None:
        raise AssertionError(f"still busy after {_HANGS_AFTER_S} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(_HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Runs the block as an ordinary user if the tests run as root, who can read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def refusing_to_read(refused: Path | None, number: int = errno.EACCES) -> Callable[..., bytes]:
    """Makes a stand-in for `inspection.read_regular` that fails for one file; None stands for all files."""
    read = inspection.read_regular

    def read_unless_refused(path: Path, most: int = -1) -> bytes:
        if refused in (None, path):
            raise OSError(number, os.strerror(number), str(path))
        return read(path, most)

    return read_unless_refused


def published(text: str) -> bool:
    """Prints a text, and returns whether the README of the tests contains it."""
    print(text)
    return text in README.read_text()

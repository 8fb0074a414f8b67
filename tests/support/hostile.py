"""Provides what the hostile tests share: bounds on memory and time, and the published counts."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lwm_edge.memory import peak_rss_bytes, reset_peak_rss
from lwm_edge.photos.decoder_process import DECODER

README = Path(__file__).parents[1] / "README.md"
_HANGS_AFTER_S = 60


@contextmanager
def memory_bound(most_bytes: int, mapped_bytes: int = 0) -> Iterator[None]:
    """Limits the address space that the block may take, and checks how much memory it had resident.

    The process that decodes costly photos counts as a whole. A file that is mapped takes address space of its
    length without taking memory.
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
    """Ends a case that would never end by itself."""

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
    """Drops the right of root to read everything, within the block."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def published(text: str) -> bool:
    """Tells whether the README beside the tests has this text."""
    print(text)
    return text in README.read_text()

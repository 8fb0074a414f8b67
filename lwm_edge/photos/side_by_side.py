"""Reads several photos at the same time, in threads: while one is decoded, the others can run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from ..memory import available_memory_bytes, rss_bytes
from ..processors import usable_processors
from ..records import StepReporter
from .guard import MAX_BYTES_HERE, MAX_MEMORY_BYTES

Item = TypeVar("Item")
Result = TypeVar("Result")
OnWait = Callable[[], None]

_SECONDS_BETWEEN_REPORTS = 0.1
_AHEAD = 2  # photos for each thread, so that none waits while a result is used


class _NobodyWaitsError(Exception):
    """Ends the reading of a photo that nobody waits for any more."""


def reading_threads(limit_bytes: int | None) -> int:
    """Returns how many photos may be read at the same time.

    There is room for all of them, even if each takes the most that it may, and for the process that decodes
    costly ones.

    Args:
        limit_bytes: Bytes that this process and that one may take together; None for all that is free.
    """
    room = available_memory_bytes() if limit_bytes is None else limit_bytes - rss_bytes()
    return max(1, min(usable_processors(), (room - MAX_MEMORY_BYTES) // MAX_BYTES_HERE))


def read_side_by_side(
    read: Callable[[Item, OnWait], Result], items: Sequence[Item], threads: int, report: StepReporter
) -> Iterator[Result]:
    """Yields each item's result, in the order of the items.

    Args:
        read: Function that reads an item. It is given a function to call a few times a second while that
            takes long; what this raises ends the reading.
        items: Items to read.
        threads: Number of them that are read at the same time; one is read in the caller's thread.
        report: Reporter of progress, called only in the caller's thread. What it raises ends the reading.
    """
    if threads == 1:
        for item in items:
            report()
            yield read(item, report.again)
        return
    ended = threading.Event()

    def stop_if_ended() -> None:
        if ended.is_set():
            raise _NobodyWaitsError

    with ThreadPoolExecutor(threads) as readers:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                report()
                ahead.append(readers.submit(read, item, stop_if_ended))
                if len(ahead) > _AHEAD * threads:
                    yield _waited_for(ahead.popleft(), report)
            while ahead:
                yield _waited_for(ahead.popleft(), report)
        finally:
            ended.set()
            for future in ahead:
                future.cancel()


def _waited_for(future: Future[Result], report: StepReporter) -> Result:
    while not wait([future], timeout=_SECONDS_BETWEEN_REPORTS).done:
        report.again()
    return future.result()

"""Reads several photos at the same time, in threads: while one is decoded, the others can run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from ..memory import available_memory_bytes, rss_bytes
from ..processors import usable_processors
from ..records import StepReporter
from .guard import MAX_BYTES_HERE, MAX_MEMORY_BYTES

Item = TypeVar("Item")
Result = TypeVar("Result")
OnWait = Callable[[], None]

_SECONDS_BETWEEN_REPORTS = 0.1
_AHEAD = 2  # photos for each thread, so that none waits while a result is used
# Handing a photo to a thread takes longer than reading a small one. So threads start only once this many
# photos have taken longer than this; the very first may be slow because libraries are loaded.
_SLOW_PHOTOS, _SLOW_SECONDS = 3, 0.005


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
    """Yields each item's result, in the order of the items; reads them in threads if that is faster.

    Args:
        read: Function that reads an item. It is given a function to call a few times a second while that
            takes long; what this raises ends the reading.
        items: Items to read.
        threads: Most items to read at the same time; one at a time is read in the caller's thread.
        report: Reporter of progress, called only in the caller's thread. What it raises ends the reading.
    """
    done = slow = 0
    while done < len(items) and (threads == 1 or slow < _SLOW_PHOTOS):
        report()
        started = time.monotonic()
        result = read(items[done], report.again)
        slow += time.monotonic() - started > _SLOW_SECONDS
        done += 1
        yield result
    if done < len(items):
        yield from _read_in_threads(read, items[done:], threads, report)


def _read_in_threads(
    read: Callable[[Item, OnWait], Result], items: Sequence[Item], threads: int, report: StepReporter
) -> Iterator[Result]:
    readers, ahead = _Readers(read), _AHEAD * threads
    try:
        readers.start(threads)
        for number, item in enumerate(items):
            report()
            readers.jobs.put((number, item))
            if number >= ahead:
                yield readers.result_of(number - ahead, report)
        for number in range(max(0, len(items) - ahead), len(items)):
            yield readers.result_of(number, report)
    finally:
        readers.end()


@dataclass
class _Outcome(Generic[Result]):
    """Holds what became of an item.

    Attributes:
        results: Its result; nothing if there is an error.
        error: Error that reading it raised.
    """

    results: tuple[Result, ...]
    error: BaseException | None = None


class _Readers(Generic[Item, Result]):
    """Reads items in threads.

    An interruption may come at any moment, also within the locks that `concurrent.futures` takes in the
    caller's thread. Such a lock is never given back, and whoever then waits for the threads waits for ever.
    So the caller's thread shares nothing with the others but queues that are not written in Python.

    Args:
        read: Function that reads an item.

    Attributes:
        jobs: Items to read, each with its number.
    """

    def __init__(self, read: Callable[[Item, OnWait], Result]) -> None:
        self.jobs: SimpleQueue[tuple[int, Item] | None] = SimpleQueue()
        self._read = read
        self._outcomes: SimpleQueue[tuple[int, _Outcome[Result]]] = SimpleQueue()
        self._early: dict[int, _Outcome[Result]] = {}
        self._started: list[Thread] = []
        self._ended = False

    def start(self, threads: int) -> None:
        """Starts some threads; one whose start is interrupted is left to itself, which a daemon can be."""
        for _ in range(threads):
            thread = Thread(target=self._work, daemon=True)
            thread.start()
            self._started.append(thread)

    def result_of(self, number: int, report: StepReporter) -> Result:
        """Waits for the result of an item, and raises the error that reading it raised."""
        while number not in self._early:
            try:
                done, outcome = self._outcomes.get(timeout=_SECONDS_BETWEEN_REPORTS)
                self._early[done] = outcome
            except Empty:
                report.again()
        outcome = self._early.pop(number)
        if outcome.error:
            raise outcome.error
        return outcome.results[0]

    def end(self) -> None:
        """Ends the reading of all items, and waits until every thread has ended."""
        self._ended = True
        self.jobs.put(None)
        for thread in self._started:
            thread.join()

    def _work(self) -> None:
        while (job := self.jobs.get()) and not self._ended:
            number, item = job
            try:
                outcome = _Outcome((self._read(item, self._stop_if_ended),))
            except BaseException as error:
                outcome = _Outcome((), error)
            self._outcomes.put((number, outcome))
        self.jobs.put(None)  # for the next thread, also for one that nobody knows of

    def _stop_if_ended(self) -> None:
        if self._ended:
            raise _NobodyWaitsError

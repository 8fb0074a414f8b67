"""Reads several photos at the same time, in threads: while one thread decodes, the others can run."""

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
_AHEAD = 2  # photos queued for each thread, so that no thread waits while a result is used
# Handing a photo to a thread takes longer than reading a small one. So threads start only once three photos
# have each taken longer than 5 ms; the very first may be slow only because libraries are being loaded.
_SLOW_PHOTOS, _SLOW_SECONDS = 3, 0.005


class _NobodyWaitsError(Exception):
    """Ends the reading of a photo that nobody is waiting for any more."""


def reading_threads(limit_bytes: int | None) -> int:
    """Returns how many photos may be read at the same time: at least one, and at most one per processor.

    If it is more than one, there is memory for all of them, even if each takes the most that is allowed, and
    for the process that decodes costly photos.

    Args:
        limit_bytes: Bytes that this process and the decoding one may take together; None for all available.
    """
    room = available_memory_bytes() if limit_bytes is None else limit_bytes - rss_bytes()
    return max(1, min(usable_processors(), (room - MAX_MEMORY_BYTES) // MAX_BYTES_HERE))


def read_side_by_side(
    read: Callable[[Item, OnWait], Result], items: Sequence[Item], threads: int, report: StepReporter
) -> Iterator[Result]:
    """Yields each item's result, in the order of the items; reads them in threads if that is faster.

    Args:
        read: Function that reads an item. Its second argument is a function that it must call a few times a
            second; any exception that this function raises ends the reading.
        items: Items to read.
        threads: Largest number of items to read at the same time; if it is 1, all are read in the caller's
            thread.
        report: Reporter of progress, called only in the caller's thread. Any exception that it raises ends
            the reading.
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
    """Holds the result of reading an item, or the error that reading it raised.

    Attributes:
        results: The result, as the only item; empty if there is an error.
        error: Error that reading the item raised.
    """

    results: tuple[Result, ...]
    error: BaseException | None = None


class _Readers(Generic[Item, Result]):
    """Reads items in threads.

    An interruption can come at any moment. If `concurrent.futures` held one of its locks in the caller's
    thread at that moment, the lock would never be released, and whoever then waited for the threads would
    wait for ever. So all that the caller's thread shares with the others is a flag and two queues;
    an interruption cannot leave a `SimpleQueue` locked.

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
        """Starts daemon threads, so that one whose start was interrupted does not keep the process alive."""
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
        """Ends the reading of all items, and waits until every thread that was started has ended."""
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
        self.jobs.put(None)  # ends the next thread, which `end` may not know of if its start was interrupted

    def _stop_if_ended(self) -> None:
        if self._ended:
            raise _NobodyWaitsError

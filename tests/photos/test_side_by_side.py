"""Several photos are read at once, as memory allows; results come in order, and a caller can stop early."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from lwm_edge.errors import PhotosError
from lwm_edge.photos import side_by_side
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.guard import MAX_BYTES_HERE, MAX_MEMORY_BYTES
from lwm_edge.photos.photo_set import PixelCache
from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.photos.side_by_side import read_side_by_side, reading_threads
from lwm_edge.records import Progress, StepReporter, ignore_progress
from tests.support.folders import DEMO_DATA
from tests.support.hostile import no_hang

PREPROCESSING = Preprocessing(image_size=28, resize_size=28, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(autouse=True)
def _threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes threads read even quick items."""
    monkeypatch.setattr(side_by_side, "_SLOW_PHOTOS", 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_progress_in_the_callers_thread(threads: int) -> None:
    reported: list[tuple[int, str]] = []
    readers: set[str] = set()

    def on_progress(progress: Progress) -> None:
        reported.append((progress.done, threading.current_thread().name))

    def read(number: int, on_wait: Callable[[], None]) -> int:
        readers.add(threading.current_thread().name)
        time.sleep(0.02 if number % 3 == 0 else 0)  # so that others overtake it
        on_wait()
        return number * number

    report = StepReporter("photos", 20, on_progress)
    assert list(read_side_by_side(read, range(20), threads, report)) == [n * n for n in range(20)]
    here = threading.current_thread().name
    assert {name for _, name in reported} == {here} and {done for done, _ in reported} == set(range(20))
    assert readers == {here} if threads == 1 else here not in readers


def test_threads_start_only_once_several_items_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_SLOW_PHOTOS", 2)
    monkeypatch.setattr(side_by_side, "_SLOW_SECONDS", 0.1)
    slow, here = (0, 4), threading.current_thread().name

    def read(number: int, on_wait: Callable[[], None]) -> str:
        time.sleep(0.2 if number in slow else 0)
        return threading.current_thread().name

    readers = list(read_side_by_side(read, range(9), 2, StepReporter("photos", 9, ignore_progress)))
    assert readers[:5] == [here] * 5 and here not in readers[5:]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_the_progress_callback_ends_all_reading(threads: int) -> None:
    """Progress is reported even while a photo is slow, so the callback can raise an error at any time."""
    ended: list[int] = []

    def on_progress(progress: Progress) -> None:
        if time.monotonic() > enough:
            raise TimeoutError("enough")

    def read(number: int, on_wait: Callable[[], None]) -> None:
        try:
            while True:
                time.sleep(0.01)
                on_wait()
        finally:
            ended.append(number)

    enough = time.monotonic() + 0.3
    before = threading.active_count()
    with no_hang(), pytest.raises(TimeoutError, match="enough"):
        list(read_side_by_side(read, range(100), threads, StepReporter("photos", 100, on_progress)))
    assert sorted(ended) == list(range(threads))
    assert threading.active_count() == before


@pytest.mark.parametrize("at", range(8))
def test_an_interruption_leaves_no_lock_that_others_wait_for(at: int) -> None:
    """KeyboardInterrupt can come just when the caller's thread has taken a lock implemented in Python."""
    locks = itertools.count()

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        taken = event == "return" and frame.f_code is threading.Condition.__enter__.__code__
        if taken and not _starts_thread(frame) and next(locks) == at:
            raise KeyboardInterrupt

    def read(number: int, on_wait: Callable[[], None]) -> int:
        time.sleep(0.001)
        return number

    sys.setprofile(interrupt)
    try:
        with no_hang(), suppress(KeyboardInterrupt):
            list(read_side_by_side(read, range(9), 2, StepReporter("photos", 9, ignore_progress)))
    finally:
        sys.setprofile(None)


def _starts_thread(frame: FrameType | None) -> bool:
    while frame and frame.f_code is not threading.Thread.start.__code__:
        frame = frame.f_back
    return frame is not None


def test_as_many_photos_are_read_at_once_as_memory_and_processors_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(side_by_side, "usable_processors", lambda: 4)
    monkeypatch.setattr(side_by_side, "rss_bytes", lambda: 100)
    for room, threads in ((0, 1), (MAX_BYTES_HERE, 1), (2 * MAX_BYTES_HERE, 2), (99 * MAX_BYTES_HERE, 4)):
        limit = MAX_MEMORY_BYTES + room + 100
        assert reading_threads(limit) == threads
        monkeypatch.setattr(side_by_side, "available_memory_bytes", lambda limit=limit: limit - 100)
        assert reading_threads(None) == threads


def test_any_number_of_threads_reads_a_folder_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, kept = [], []
    for threads in (1, 4):
        monkeypatch.setattr("lwm_edge.photos.folders.reading_threads", lambda limit, threads=threads: threads)
        cache = PixelCache(2**30)
        folder = DEMO_DATA / "train" / "1"
        found.append(
            read_photo_folder(folder, PREPROCESSING, cache, min_photos=1, on_progress=ignore_progress)
        )
        kept.append(cache.held_bytes)
    assert found[0] == found[1] and kept[0] == kept[1] > 0


def test_no_thread_outlives_the_reading_of_a_folder_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwm_edge.photos.folders.reading_threads", lambda limit: 3)
    before = threading.active_count()
    with pytest.raises(PhotosError, match="at least 1,000 are needed") as refused:
        read_photo_folder(DEMO_DATA / "train" / "1", PREPROCESSING, PixelCache(2**30), min_photos=1000)
    assert refused.value and threading.active_count() == before

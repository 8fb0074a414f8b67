"""Decides which photos each step learns from, and reads them in advance while earlier steps run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..model.terms import Precision
from ..photos.guard import wait_on
from ..photos.photo_set import PhotoSet
from ..photos.pixels import Pixels
from ..records import Progress, StepReporter
from .config import IncrementConfig

_SECONDS_BETWEEN_CALLS = 0.2  # between two calls of `on_wait`


@dataclass(frozen=True)
class Pace:
    """Sets how training works through its batches.

    This affects memory and time; the results differ only by rounding.

    Attributes:
        micro_batch_size: Number of images that are processed at once.
        prefetch: Number of batches to read ahead.
        recompute: Whether trained blocks are computed again in the backward pass, to save memory.
        precision: Precision in which the networks' blocks compute.
        frozen_cache_bytes: Maximum size of the cache that keeps the frozen blocks' outputs for all epochs.
    """

    micro_batch_size: int
    prefetch: int
    recompute: bool
    precision: Precision = "float32"
    frozen_cache_bytes: int = 0


class Batch(NamedTuple):
    """Holds the photos and labels that one optimiser update learns from.

    Attributes:
        step: Number of the update, from 0.
        labels: class_index of each of the B photos; the photos in `kept` come first.
        pixels: Images of the other photos [B - len(kept), H, W, 3] uint8.
        kept: Indices of the photos whose pixels are not needed, because the frozen blocks' outputs are kept.
    """

    step: int
    labels: list[int]
    pixels: Pixels
    kept: Sequence[int] = ()


def loaded_batches(
    photos: PhotoSet,
    config: IncrementConfig,
    prefetch: int,
    start: int = 0,
    kept: int = 0,
    on_wait: Callable[[], None] = wait_on,
) -> Iterator[Batch]:
    """Yields the training batches from step `start` on, while a thread reads the next ones.

    Args:
        photos: Photos to learn from.
        config: Settings of the increment.
        prefetch: Number of batches to read ahead.
        start: Number of the first step.
        kept: Number of photos at the start of the set that need not be read.
        on_wait: Function that is called a few times a second while the next batch is not ready.
    """
    labels, ended = photos.labels, threading.Event()
    with ThreadPoolExecutor(1) as reader, _stop_reading_at_end(reader, ended):
        ahead: deque[Future[Batch]] = deque()
        for step, epoch, indices in _schedule(len(labels), config, start):
            of_kept, to_read = [i for i in indices if i < kept], [i for i in indices if i >= kept]
            batch_labels = [labels[i] for i in of_kept + to_read]
            ahead.append(reader.submit(_load, photos, step, epoch, batch_labels, of_kept, to_read, ended))
            if len(ahead) > prefetch:
                yield _wait_for(ahead.popleft(), on_wait)
        while ahead:
            yield _wait_for(ahead.popleft(), on_wait)


@contextmanager
def _stop_reading_at_end(reader: ThreadPoolExecutor, ended: threading.Event) -> Iterator[None]:
    """Stops reading ahead when the block of code ends, as nobody will use the remaining batches."""
    try:
        yield
    finally:
        ended.set()
        reader.shutdown(cancel_futures=True)


def _wait_for(batch: Future[Batch], on_wait: Callable[[], None]) -> Batch:
    while not wait([batch], timeout=_SECONDS_BETWEEN_CALLS).done:
        on_wait()
    return batch.result()


def _load(
    photos: PhotoSet,
    step: int,
    epoch: int,
    labels: list[int],
    kept: list[int],
    to_read: list[int],
    ended: threading.Event,
) -> Batch:
    def stop_if_ended(progress: Progress) -> None:
        """Stops loading once nobody needs the batch any more."""
        if ended.is_set():
            raise CancelledError

    size, report = photos.preprocessing.image_size, StepReporter("train", len(to_read), stop_if_ended)
    pixels = photos.load(to_read, epoch, report) if to_read else np.empty((0, size, size, 3), np.uint8)
    return Batch(step, labels, pixels, kept)


def _schedule(count: int, config: IncrementConfig, start: int) -> Iterator[tuple[int, int, list[int]]]:
    step = 0
    for epoch in range(config.epochs):
        for indices in epoch_batches(count, config.batch_size, config.seed, epoch):
            if step >= start:
                yield step, epoch, indices
            step += 1


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yields the photos' indices, batch by batch, in a random order that depends on seed and epoch."""
    order = [int(i) for i in np.random.default_rng([seed, epoch]).permutation(count)]
    return (order[part] for part in chunks(count, batch_size))


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yields slices of length `size` that together cover `count` items; the last one may be shorter."""
    return (slice(start, start + size) for start in range(0, count, size))

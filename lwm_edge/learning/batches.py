"""Decides which photos a step sees, and reads them while another step computes."""

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
    """Says how training goes through its batches: this affects memory, time and, by rounding, the result.

    Attributes:
        micro_batch_size: Number of images computed at once.
        prefetch: Number of batches to read ahead.
        recompute: Whether trained blocks are computed again in the backward pass, to save memory.
        precision: Precision in which the networks' blocks compute.
        frozen_cache_bytes: Largest number of bytes of the frozen blocks' outputs to keep for all epochs.
    """

    micro_batch_size: int
    prefetch: int
    recompute: bool
    precision: Precision = "float32"
    frozen_cache_bytes: int = 0


class Batch(NamedTuple):
    """Holds what one optimiser update learns from.

    Attributes:
        step: Number of the update, from 0.
        labels: class_index of each of the B photos; those in `kept` come first.
        pixels: Images of the other photos [B - len(kept), H, W, 3] uint8.
        kept: Indices of photos whose pixels are not needed, as the frozen blocks' outputs are kept.
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
    """Yields the batches of training from step `start` on, and meanwhile reads the next ones ahead.

    Args:
        photos: Photos to learn from.
        config: Settings of the increment.
        prefetch: Number of batches to read ahead.
        start: Number of the first step.
        kept: Number of photos at the front of the set that need not be read.
        on_wait: Function that is called a few times a second while a batch is waited for.
    """
    labels, ended = photos.labels, threading.Event()
    with ThreadPoolExecutor(1) as reader, _reading_ended(reader, ended):
        ahead: deque[Future[Batch]] = deque()
        for step, epoch, indices in _schedule(len(labels), config, start):
            known, others = [i for i in indices if i < kept], [i for i in indices if i >= kept]
            of_batch = [labels[i] for i in known + others]
            ahead.append(reader.submit(_loaded, photos, step, epoch, of_batch, known, others, ended))
            if len(ahead) > prefetch:
                yield _waited_for(ahead.popleft(), on_wait)
        while ahead:
            yield _waited_for(ahead.popleft(), on_wait)


@contextmanager
def _reading_ended(reader: ThreadPoolExecutor, ended: threading.Event) -> Iterator[None]:
    """Ends the reading when the block ends, as nobody will use what is still being read ahead."""
    try:
        yield
    finally:
        ended.set()
        reader.shutdown(cancel_futures=True)


def _waited_for(batch: Future[Batch], on_wait: Callable[[], None]) -> Batch:
    while not wait([batch], timeout=_SECONDS_BETWEEN_CALLS).done:
        on_wait()
    return batch.result()


def _loaded(
    photos: PhotoSet,
    step: int,
    epoch: int,
    labels: list[int],
    known: list[int],
    others: list[int],
    ended: threading.Event,
) -> Batch:
    def end(progress: Progress) -> None:
        if ended.is_set():
            raise CancelledError

    size, report = photos.preprocessing.image_size, StepReporter("train", len(others), end)
    pixels = photos.load(others, epoch, report) if others else np.empty((0, size, size, 3), np.uint8)
    return Batch(step, labels, pixels, known)


def _schedule(count: int, config: IncrementConfig, start: int) -> Iterator[tuple[int, int, list[int]]]:
    step = 0
    for epoch in range(config.epochs):
        for indices in epoch_batches(count, config.batch_size, config.seed, epoch):
            if step >= start:
                yield step, epoch, indices
            step += 1


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yields the photos' indices, a batch at a time, in an order that seed and epoch decide."""
    order = [int(i) for i in np.random.default_rng([seed, epoch]).permutation(count)]
    return (order[part] for part in chunks(count, batch_size))


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yields slices of `size` that together cover 0 to `count`; the last one may be shorter."""
    return (slice(start, start + size) for start in range(0, count, size))

"""Decides which photos a step sees, and reads them while another step computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..photos.photo_set import PhotoSet
from ..photos.pixels import Pixels
from .config import IncrementConfig


@dataclass(frozen=True)
class Pace:
    """Says how training goes through its batches: memory and time depend on it, the result does not.

    Attributes:
        micro_batch_size: Number of images computed at once.
        prefetch: Number of batches read ahead.
        recompute: Whether trained blocks are computed again in the backward pass, to save memory.
    """

    micro_batch_size: int
    prefetch: int
    recompute: bool


class Batch(NamedTuple):
    """Holds what one optimiser update learns from.

    Attributes:
        step: Number of the update, from 0.
        labels: class_index of each of the B photos.
        pixels: Images [B, H, W, 3] uint8.
    """

    step: int
    labels: list[int]
    pixels: Pixels


def loaded_batches(
    photos: PhotoSet, config: IncrementConfig, prefetch: int, start: int = 0
) -> Iterator[Batch]:
    """Yields the training's batches from step `start` on; reads the next `prefetch` while one is in use."""
    labels = photos.labels
    with ThreadPoolExecutor(1) as reader:
        ahead: deque[tuple[int, list[int], Future[Pixels]]] = deque()
        for step, epoch, indices in _schedule(len(labels), config, start):
            ahead.append((step, [labels[i] for i in indices], reader.submit(photos.load, indices, epoch)))
            if len(ahead) > prefetch:
                yield _loaded(*ahead.popleft())
        while ahead:
            yield _loaded(*ahead.popleft())


def _loaded(step: int, labels: list[int], pixels: Future[Pixels]) -> Batch:
    return Batch(step, labels, pixels.result())


def _schedule(count: int, config: IncrementConfig, start: int) -> Iterator[tuple[int, int, list[int]]]:
    step = 0
    for epoch in range(config.epochs):
        for indices in epoch_batches(count, config.batch_size, config.seed, epoch):
            if step >= start:
                yield step, epoch, indices
            step += 1


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yields the photos' indices in the epoch's order, a batch at a time; seed and epoch decide the order."""
    order = [int(i) for i in np.random.default_rng([seed, epoch]).permutation(count)]
    return (order[part] for part in chunks(count, batch_size))


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yields 0..count in pieces of `size`; the last one may be shorter."""
    return (slice(start, start + size) for start in range(0, count, size))

"""Reads photos ahead while a network computes, so that reading and computing seldom wait for each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ..photos.photo_set import PhotoSet
from ..photos.pixels import Pixels


def read_ahead(
    photos: PhotoSet, batches: Iterable[Sequence[int]], epoch: int, threads: int
) -> Iterator[Pixels]:
    """Yields the pixels of each batch [B, image_size, image_size, 3] uint8, in the order of the batches.

    Args:
        photos: Photos to read.
        batches: Indices of each batch's photos.
        epoch: Epoch to augment the photos for.
        threads: Number of batches that are read at the same time; as many again may wait to be used.
    """
    with ThreadPoolExecutor(threads) as readers:
        ahead: deque[Future[Pixels]] = deque()
        try:
            for batch in batches:
                ahead.append(readers.submit(photos.load, batch, epoch))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()

"""Counts the photos of a class that are nearly copies of each other, judged by their features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .class_statistics import ClassStatistics
from .discriminant import Features, Labels

NEAR = 0.1
"""Squared distance below which two photos are near-copies.

It is a share of the mean squared distance between two photos of a class.
In each class of Grocery and Caltech-101, at most 20% of the photos are closer than this to an earlier photo.
When one photo was copied 14 times, each time with different compression, brightness, shift and crop, at least
half of the copies (Grocery) or nearly all of them (Caltech-101) were closer than this to an earlier one.
"""

_ROWS_AT_ONCE = 256


class NearCopies(NamedTuple):
    """Counts near-copies among the photos of a class.

    Attributes:
        copies: Number of photos that are nearly the same as an earlier one.
        different: Number of photos that remain once near-copies are dropped: in order, each photo is kept
            unless it is nearly the same as one kept before. In a video that shows an object from all sides,
            nearly every frame is nearly the same as the one before, and yet many frames may differ.
    """

    copies: int
    different: int


def count_near_copies(features: Features, labels: Labels, known: ClassStatistics) -> dict[int, NearCopies]:
    """Counts the photos of each class that are nearly the same as an earlier one, and those that differ.

    Args:
        features: Inputs of the head for each photo [M, d].
        labels: class_index of each photo [M].
        known: Statistics of the classes that the model knew before, which show how far apart two photos of
            one class usually are.

    Returns:
        The counts by class_index; empty if the statistics show no spread, as when they hold no photos.
    """
    near = NEAR * 2 * float(np.trace(known.covariance))  # the mean squared distance is twice the variance
    if not near > 0:
        return {}
    return {int(label): _near_copies(features[labels == label], near) for label in np.unique(labels)}


def _near_copies(features: Features, near: float) -> NearCopies:
    """Counts the rows whose squared distance to an earlier row is below `near`, and the rows that differ."""
    centred = features - features.mean(0)  # the differences below are more exact for small numbers
    lengths = np.einsum("nd,nd->n", centred, centred)
    copies, differs = 0, np.zeros(len(centred), dtype=np.bool_)
    for start in range(0, len(centred), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        apart = lengths[rows, None] + lengths - 2 * centred[rows] @ centred.T
        is_earlier = np.arange(len(centred)) < np.arange(start, start + len(apart))[:, None]
        is_copy: NDArray[np.bool_] = (apart < near) & is_earlier
        copies += int(is_copy.any(1).sum())
        for row, is_copy_of in enumerate(is_copy, start):
            differs[row] = not (is_copy_of & differs).any()
    return NearCopies(copies, int(differs.sum()))

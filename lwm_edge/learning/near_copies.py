"""Counts photos of a class that are nearly copies of each other, judging by features computed anyway."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .class_statistics import ClassStatistics
from .discriminant import Features, Labels

NEAR = 0.1
"""Squared distance of near-copies, as a share of what is usual for two photos of one class.

In each class of Grocery and Caltech-101, at most 20% of the photos are closer to an earlier one than this.
Of 14 photos made from one, which was saved, lit, shifted and cropped anew, half or more (Grocery) or nearly
all (Caltech-101) are closer.
"""

_ROWS_AT_ONCE = 256


class NearCopies(NamedTuple):
    """Counts near-copies among the photos of a class.

    Attributes:
        copies: Number of photos that are nearly the same as one before them.
        different: Number of photos of which no two are nearly the same, and to one of which every other photo
            is. Of a film that goes round a thing, nearly all pictures are copies of the one before, and yet
            many may differ.
    """

    copies: int
    different: int


def count_near_copies(features: Features, labels: Labels, known: ClassStatistics) -> dict[int, NearCopies]:
    """Counts the photos of each class that are nearly the same as another one, and those that differ.

    Args:
        features: Values that the head reads of each photo [M, d].
        labels: class_index of each photo [M].
        known: Statistics of other classes, which say how far apart two photos of one class usually are.

    Returns:
        Numbers of such photos by class_index; empty if the statistics were made from no photos.
    """
    near = NEAR * 2 * float(np.trace(known.covariance))  # mean squared distance: twice the variance
    if not near > 0:
        return {}
    return {int(label): _near_copies(features[labels == label], near) for label in np.unique(labels)}


def _near_copies(features: Features, near: float) -> NearCopies:
    """Counts the rows that are closer to an earlier row than this squared distance, and those that differ."""
    centred = features - features.mean(0)  # so that the differences below are of small numbers
    lengths = np.einsum("nd,nd->n", centred, centred)
    copies, differs = 0, np.zeros(len(centred), dtype=np.bool_)
    for start in range(0, len(centred), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        apart = lengths[rows, None] + lengths - 2 * centred[rows] @ centred.T
        is_earlier = np.arange(len(centred)) < np.arange(start, start + len(apart))[:, None]
        is_copy: NDArray[np.bool_] = (apart < near) & is_earlier
        copies += int(is_copy.any(1).sum())
        for row, of in enumerate(is_copy, start):
            differs[row] = not (of & differs).any()
    return NearCopies(copies, int(differs.sum()))

"""Counts photos of a class that are nearly copies of each other, judging by features computed anyway."""

from __future__ import annotations

import numpy as np

from .class_statistics import ClassStatistics
from .discriminant import Features, Labels

NEAR = 0.1
"""Squared distance of near-copies, as a share of what is usual for two photos of one class.

In each class of Grocery and Caltech-101, at most 20% of the photos are closer to an earlier one than this.
Of 14 photos made from one, which was saved, lit, shifted and cropped anew, half or more (Grocery) or nearly
all (Caltech-101) are closer.
"""

_ROWS_AT_ONCE = 256


def count_near_copies(features: Features, labels: Labels, known: ClassStatistics) -> dict[int, int]:
    """Counts, for each class, the photos that are nearly the same as one before them.

    Args:
        features: Values that the head reads of each photo [M, d].
        labels: class_index of each photo [M].
        known: Statistics of other classes, which say how far apart two photos of one class usually are.

    Returns:
        Number of such photos by class_index; empty if the statistics were made from no photos.
    """
    near = NEAR * 2 * float(np.trace(known.covariance))  # mean squared distance: twice the variance
    if not near > 0:
        return {}
    return {int(label): _near_copies(features[labels == label], near) for label in np.unique(labels)}


def _near_copies(features: Features, near: float) -> int:
    """Counts the rows that are closer to an earlier row than this squared distance."""
    centred = features - features.mean(0)  # so that the differences below are of small numbers
    lengths = np.einsum("nd,nd->n", centred, centred)
    count = 0
    for start in range(0, len(centred), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        apart = lengths[rows, None] + lengths - 2 * centred[rows] @ centred.T
        is_earlier = np.arange(len(centred)) < np.arange(start, start + len(apart))[:, None]
        count += int(((apart < near) & is_earlier).any(1).sum())
    return count

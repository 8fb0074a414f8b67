"""Merges two classes in the class statistics, and tells whether a head was solved from the statistics."""

from __future__ import annotations

import numpy as np

from .class_statistics import ClassStatistics
from .discriminant import Features, times_shrunk

# Largest relative difference, in weight times covariance, that counts as rounding. With a million photos,
# float32 statistics caused differences of up to 0.003. A larger limit would miss changes of the head along
# directions in which photos hardly vary.
_ROUNDING = 0.01


def merge_classes(statistics: ClassStatistics, gone: int, kept: int) -> None:
    """Merges one class into another, as if all their photos had been given one name.

    The scatter around the common mean is the scatter around the two separate means, which the covariance
    already includes, plus a term for the distance between these means. The row of the class `gone` stays as
    it is; the caller removes it.

    Args:
        statistics: Statistics, which are changed in place.
        gone: class_index of the class that is merged into the other.
        kept: class_index of the class that remains.
    """
    before, more = statistics.counts[kept], statistics.counts[gone]
    together = before + more
    if not together:
        return
    apart = statistics.means[gone] - statistics.means[kept]
    statistics.means[kept] += more / together * apart
    statistics.counts[kept] = together
    between = before * more / together / statistics.photos * apart
    for row, value in zip(statistics.covariance, between, strict=True):  # without a second [d, d] matrix
        row += value * apart


def is_solved(weight: Features, statistics: ClassStatistics) -> bool:
    """Tells whether a head is the linear discriminant that follows from the statistics.

    If rows were removed after the head was solved, solving it again gives a different scale and centre;
    these differences are ignored. Earlier versions solved heads as if no feature came from earlier blocks.

    Args:
        weight: Weight of the head [classes, d].
        statistics: Statistics of these classes.
    """
    means = statistics.means[: len(weight)]
    wanted = means - means.mean(0)
    size = float((wanted**2).sum())
    for level_values in dict.fromkeys((statistics.level_values, 0)):
        # Multiplying by the matrix is much cheaper than solving for the weight.
        given = times_shrunk(weight - weight.mean(0), statistics.covariance, statistics.photos, level_values)
        scale = float((given * wanted).sum()) / size if size else 0.0
        apart = float(np.linalg.norm(given - scale * wanted))
        if scale > 0 and apart <= _ROUNDING * float(np.linalg.norm(given)):
            return True
    return False

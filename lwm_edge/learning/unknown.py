"""Computes the tensors of the score for unknown objects from class statistics; `model.unknown` applies them.

Up to a factor and a constant, the score is a log-likelihood ratio: it says how much better a photo is
explained by a Gaussian around the nearest class mean than by a single Gaussian as broad as the spread of all
classes. Both Gaussians include the same covariance within classes, so only the few directions in which class
means differ have any effect. These are the canonical variates of linear discriminant analysis. In the space
that they span, the score is minus the relative distance of Ren et al. 2021, "A Simple Fix to Mahalanobis
Distance for Improving Near-OOD Detection". It depends on the statistics alone, not on how the head was
trained or how logits become probabilities.
"""

from __future__ import annotations

import numpy as np

from ..model.tensors import AXES, AXES_OFFSET, CENTRES, CENTRES_OFFSET, DAMPING, Arrays, declared_tensors
from .class_statistics import ClassStatistics
from .discriminant import Features

_SMALLEST_VARIANCE = 1e-9  # smallest variance of the class means along an axis, as a share of the largest


def score_tensors(statistics: ClassStatistics, classes: int, rows: Features | None = None) -> Arrays:
    """Computes the score's tensors from class statistics; see `tensors_of`.

    Args:
        statistics: Statistics of all classes.
        classes: Number of classes.
        rows: Rows of the `Discriminant` of these classes; None if they are to be solved here.
    """
    rows = statistics.discriminant(classes).rows if rows is None else rows
    return tensors_of(statistics.means[:classes], rows, len(statistics.means))


def tensors_of(means: Features, rows: Features, capacity: int) -> Arrays:
    """Computes the score's float32 tensors, whose shapes depend only on the capacity and on d.

    Args:
        means: Mean of each class [classes, d].
        rows: Rows of the `Discriminant` of these classes [classes, d].
        capacity: Number of rows in each tensor that has one row per class.
    """
    classes, d = means.shape
    declared = declared_tensors(capacity, d)
    names = (AXES, AXES_OFFSET, DAMPING, CENTRES, CENTRES_OFFSET)
    arrays = {name: np.zeros(declared[name][1], np.float32) for name in names}
    centre = means.mean(0)
    variances, mixed = np.linalg.eigh((means - centre) @ rows.T / classes)
    order = np.argsort(-variances)[: min(len(arrays[AXES]), classes - 1)]
    order = order[variances[order] > _SMALLEST_VARIANCE * variances.max()]
    variances, mixed = variances[order], mixed[:, order]
    axes = (mixed / np.sqrt(classes * variances)).T @ rows
    centres = (means - centre) @ axes.T
    used = len(order)
    arrays[AXES][:used], arrays[AXES_OFFSET][:used] = axes, -axes @ centre
    arrays[DAMPING][0, :used] = variances / (1 + variances)
    arrays[CENTRES][:classes, :used] = 2 * centres
    arrays[CENTRES_OFFSET][:classes] = -np.einsum("cr,cr->c", centres, centres)
    return arrays

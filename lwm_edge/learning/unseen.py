"""Scores each photo for unknown objects by statistics made without it: five-fold cross-validation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..model.unknown import known_scores
from .class_statistics import ClassStatistics
from .discriminant import FOLDS, Features, Labels
from .unknown import score_tensors


def unseen_scores(
    learn: Callable[[Features, Labels], ClassStatistics], features: Features, labels: Labels, classes: int
) -> Features:
    """Scores each photo by statistics of all others, in five folds within each class.

    Args:
        learn: Function that makes the statistics of all classes from some of these photos.
        features: Values that the head reads of each photo [M, d].
        labels: class_index of each photo [M].
        classes: Number of all classes.

    Returns:
        Score of each photo, larger for known ones [M].
    """
    fold = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        fold[of_class] = np.arange(len(of_class)) % FOLDS
    scores = np.zeros(len(labels))
    for part in np.unique(fold):
        held_out = fold == part
        statistics = learn(features[~held_out], labels[~held_out])
        scores[held_out] = known_scores(features[held_out], score_tensors(statistics, classes), classes)
    return scores

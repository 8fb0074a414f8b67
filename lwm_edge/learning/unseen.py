"""Shows to each photo a model that is made without it: five-fold cross-validation, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..model.unknown import known_scores
from ..records import report_nothing
from .class_statistics import ClassStatistics, Features, Labels
from .unknown import score_tensors

FOLDS = 5


class Unseen(NamedTuple):
    """Holds what models say of photos that they had not learnt.

    Attributes:
        logits: Logits [M, classes].
        scores: Score for unknown objects, larger for known ones [M].
    """

    logits: Features
    scores: Features


def judge_unseen(
    learn: Callable[[Features, Labels], ClassStatistics],
    features: Features,
    labels: Labels,
    classes: int,
    report: Callable[[], None] = report_nothing,
) -> Unseen:
    """Judges each photo by a head and a score that are solved without it, in five folds within each class.

    Args:
        learn: Function that makes the statistics of all classes from some of these photos, such as
            `with_photos` of the statistics of the others.
        features: Values that the head reads of each photo [M, d].
        labels: class_index of each photo [M].
        classes: Number of all classes, which compete.
        report: Function that is called before each of up to `FOLDS` heads is solved.
    """
    fold = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        fold[of_class] = np.arange(len(of_class)) % FOLDS
    unseen = Unseen(np.zeros((len(labels), classes)), np.zeros(len(labels)))
    for part in np.unique(fold):
        report()
        held_out = fold == part
        statistics = learn(features[~held_out], labels[~held_out])
        solved = statistics.discriminants(classes)
        weight, bias = statistics.solve_head(classes, solved)
        unseen.logits[held_out] = features[held_out] @ weight.T + bias
        tensors = score_tensors(statistics, classes, solved)
        unseen.scores[held_out] = known_scores(features[held_out], tensors, classes)
    return unseen

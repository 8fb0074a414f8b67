"""Judges each photo with a model that has not learnt from it: five-fold cross-validation in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..model.unknown import known_scores
from ..records import report_nothing
from .discriminant import Discriminant, Features
from .unknown import tensors_of


class Unseen(NamedTuple):
    """Holds the outputs of models for photos that these models have not learnt from.

    Attributes:
        logits: Logits [M, classes].
        scores: Score of each photo [M], larger for known objects; see `model.unknown`.
    """

    logits: Features
    scores: Features


def judge_unseen(solved: Discriminant, capacity: int, report: Callable[[], None] = report_nothing) -> Unseen:
    """Judges each photo with a head and a score that are solved without it, in five folds of each class.

    Args:
        solved: Discriminant that can leave out each of the photos to judge.
        capacity: Maximum number of classes, for which the score's tensors have rows.
        report: Function that is called before each of up to `FOLDS` heads is solved.
    """
    photos, classes = solved.features, len(solved.rows)
    unseen = Unseen(np.zeros((len(photos), classes)), np.zeros(len(photos)))
    for left_out in solved.folds():
        report()
        without = solved.without(left_out)
        unseen.logits[left_out] = without.head.logits(photos[left_out])
        tensors = tensors_of(without.means, without.rows, capacity)
        unseen.scores[left_out] = known_scores(photos[left_out], tensors, classes)
    return unseen

"""Measures a trained network on photos that it never saw, and lets them decide what ships.

Photos that a network learnt by heart lie where no other photo lies: their class means and covariance describe
nothing that a device will meet. Statistics are made from all photos, or with the means of the unseen ones
alone if the network knows the others by heart, unless another choice recognises the unseen photos better
(each photo is predicted by a head that is solved without it). The head that is solved from the chosen
statistics ships instead of the trained one if it recognises these photos better, too.

Without unseen photos, nothing can be chosen. If the network is then right on nearly all photos that it learnt
from but on far fewer varied copies of them, the statistics are made from these copies, whose features are
more like those of photos that it never saw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import FOLDS, Features, Labels
from ..learning.running import Observation
from ..learning.unknown import score_tensors
from ..learning.unseen import Unseen, judge_unseen
from ..model.bundle import (
    CONFUSIONS,
    HISTOGRAM,
    RIGHT,
    RIGHT_SOLVED,
    TOTAL,
    Arrays,
    empty_tensors,
)
from ..model.unknown import count_scores, known_scores
from ..records import report_nothing
from .reports import StatisticsReport

HEADS = 2 * FOLDS + 1
"""Maximum number of heads that `settle` solves.

There is one without each fold, for each of two kinds of statistics, and one more.
"""

BY_HEART = 0.15
"""Gap between a network's accuracies on learnt and unseen photos above which it knows photos by heart."""
NEARLY_ALL = 0.99
"""Accuracy on learnt photos at which they may be known by heart, if there are no unseen ones to tell."""

_ENOUGH_FOR_MEANS = 5  # unseen photos per class; the mean of fewer says less than the mean of all photos
_LEAST_JUDGED = 2  # without its only unseen photo, a class has no mean, so the photo is never recognised


class Settled(NamedTuple):
    """Holds what was decided about a trained network's statistics and head.

    Attributes:
        statistics: Statistics of all classes.
        report: Report on the choice.
        logits: Logits of each unseen photo, by a head like the one that ships [M, classes]; may be empty.
        solved: Logits of each unseen photo, by a head that a device would solve from the statistics
            [M, classes].
        scores: Each unseen photo's score for unknown objects, by statistics made without it [M].
    """

    statistics: ClassStatistics
    report: StatisticsReport
    logits: Features
    solved: Features
    scores: Features

    @property
    def predictions(self) -> Labels:
        """Returns the prediction for each unseen photo, by a head like the one that ships [M]."""
        predictions: Labels = self.logits.argmax(1)
        return predictions


def settle(
    of_given: ClassStatistics,
    unseen: Observation | None,
    unseen_labels: Labels,
    trained_logits: Features | None,
    accuracy_on_learnt: float,
    classes: int,
    report: Callable[[], None] = report_nothing,
    *,
    are_copies: bool = False,
) -> Settled:
    """Decides from which photos the statistics are made, and whether the solved head ships.

    Args:
        of_given: Statistics of the photos given for this purpose, usually those that the network learnt from.
        unseen: Observation of photos that the network never saw; None if there are none.
        unseen_labels: class_index of each unseen photo.
        trained_logits: Logits of the trained head for the unseen photos.
        accuracy_on_learnt: Accuracy of the trained head on photos that the network learnt from.
        classes: Number of classes.
        report: Function that is called before each of up to `HEADS` heads is solved.
        are_copies: Whether the given photos are varied copies of those that the network learnt from.
    """
    if unseen is None or trained_logits is None:
        nothing_known = StatisticsReport(
            photos="varied" if are_copies else "given", head="trained", accuracy={}
        )
        nothing = np.zeros((0, classes))
        return Settled(of_given, nothing_known, nothing, nothing, np.zeros(0))
    trained = trained_logits.argmax(1)
    accuracy = {"trained": _accuracy(trained, unseen_labels)}

    def by_given() -> Unseen:
        report()
        solved = of_given.discriminant(classes)
        tensors = score_tensors(of_given, classes, solved.rows)
        return Unseen(
            solved.head.logits(unseen.head_inputs), known_scores(unseen.head_inputs, tensors, classes)
        )

    capacity = len(of_given.means)
    fewest = int(np.bincount(unseen_labels, minlength=classes).min())
    if not fewest:  # if means came from two sources, the classes of one source would be favoured
        undecided = StatisticsReport(photos="given", head="trained", accuracy=accuracy)
        return Settled(of_given, undecided, trained_logits, *by_given())

    of_all = of_given.copy()
    of_all.learn_more(unseen.head_inputs, unseen_labels)
    ways = {
        "all": of_all,
        "unseen": of_given.with_photos(unseen.head_inputs, unseen_labels),  # their means alone
        "given": of_given,
    }
    if fewest < _LEAST_JUDGED:
        del ways["unseen"]
    judged = {
        way: judge_unseen(
            ways[way].discriminant(classes, unseen.head_inputs, unseen_labels), capacity, report
        )
        for way in ways
        if way != "given"
    }
    judged["given"] = by_given()
    predictions = {way: found.logits.argmax(1) for way, found in judged.items()}
    accuracy |= {way: _accuracy(found, unseen_labels) for way, found in predictions.items()}
    is_by_heart = accuracy_on_learnt - accuracy["trained"] > BY_HEART
    best = "unseen" if is_by_heart and fewest >= _ENOUGH_FOR_MEANS else "all"
    for way in ways:
        if _is_better(predictions[way], predictions[best], unseen_labels):
            best = way
    head = "solved" if _is_better(predictions[best], trained, unseen_labels) else "trained"
    return Settled(
        ways[best],
        StatisticsReport(photos=best, head=head, accuracy=accuracy),
        judged[best].logits if head == "solved" else trained_logits,
        *judged[best],
    )


def _accuracy(predictions: Labels, labels: Labels) -> float:
    """Computes the mean accuracy over the classes that have photos."""
    return float(np.mean([(predictions[labels == c] == c).mean() for c in np.unique(labels)]))


def _is_better(predictions: Labels, others: Labels, labels: Labels) -> bool:
    """Tells whether predictions are better than others by more than chance would explain.

    Their accuracy, a mean over classes, must be higher. Of n photos on which only one of the two is right,
    chance would give each half, with a standard deviation of half the square root of n. The better one must
    exceed its half by more than two standard deviations.
    """
    right, others_right = predictions == labels, others == labels
    gained, lost = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    is_higher = _accuracy(predictions, labels) > _accuracy(others, labels)
    return is_higher and gained - lost > 2 * float(np.sqrt(gained + lost))


def measured_tensors(settled: Settled, labels: Labels, capacity: int) -> Arrays:
    """Counts, for the bundle, how often each class was recognised, the worst confusions, and the scores."""
    arrays, predictions = empty_tensors(capacity, 1), settled.predictions
    np.add.at(arrays[TOTAL], labels, 1)
    np.add.at(arrays[RIGHT], labels[predictions == labels], 1)
    np.add.at(arrays[RIGHT_SOLVED], labels[settled.solved.argmax(1) == labels], 1)
    wrong = np.stack([labels, predictions], 1)[predictions != labels]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    rows = np.argsort(-counts, kind="stable")[: len(arrays[CONFUSIONS])]
    arrays[CONFUSIONS][: len(rows)] = np.concatenate([pairs[rows], counts[rows, None]], 1)
    arrays[HISTOGRAM] = count_scores(settled.scores, labels, capacity)
    return arrays

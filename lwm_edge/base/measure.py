"""Measures a trained network on photos that it never saw, and lets them decide what ships.

Photos that a network learnt by heart lie where no other photo lies: their class means and covariance describe
nothing that a device will meet. Statistics are made from all photos, or with the means of the unseen ones
alone if the network knows the others by heart, unless another choice recognises the unseen photos better
(each photo is predicted by a head that is solved without it). The head that is solved from the chosen
statistics ships instead of the trained one if it is better than that, too.

Where nothing can be chosen, and the network is right on nearly all photos that it learnt from but on far
fewer varied copies of them, the statistics are made from these copies: they lie more like photos never seen.
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
"""Most heads that `settle` solves: two ways to make the statistics, each without a fold of the photos."""

BY_HEART = 0.15
"""Accuracy on learnt photos less accuracy on unseen ones, above which a network knows photos by heart."""
NEARLY_ALL = 0.99
"""Accuracy on learnt photos from which on photos may be known by heart, if none is unseen."""

_ENOUGH_FOR_MEANS = 5  # unseen photos of a class, below which their mean says less than that of all photos
_LEAST_JUDGED = 2  # a class of which one photo is unseen has no mean without it, so it is never recognised


class Settled(NamedTuple):
    """Holds what was decided about a trained network's statistics and head.

    Attributes:
        statistics: Statistics of all classes.
        report: Report on the choice.
        logits: Logits of each unseen photo, by a head like the one that ships [M, classes]; may be empty.
        solved: Logits of each unseen photo, by a head that a device would solve from the statistics
            [M, classes].
        scores: Score for unknown objects of each unseen photo, by statistics made without it [M].
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
    given: Observation,
    given_labels: Labels,
    unseen: Observation | None,
    unseen_labels: Labels,
    trained_logits: Features | None,
    accuracy_on_learnt: float,
    empty: ClassStatistics,
    classes: int,
    copies: int = 0,
    report: Callable[[], None] = report_nothing,
) -> Settled:
    """Decides from which photos the statistics are made, and whether the solved head ships.

    Args:
        given: Observation of the photos given for the statistics, usually those that the network learnt from.
        given_labels: class_index of each of them.
        unseen: Observation of photos that the network never saw; None if there are none.
        unseen_labels: class_index of each of these.
        trained_logits: Logits of the trained head for the unseen photos.
        accuracy_on_learnt: Accuracy of the trained head on photos that the network learnt from.
        empty: Statistics of no photos.
        classes: Number of classes.
        copies: Number of varied copies of each photo that stand in for it among the given ones.
        report: Function that is called before each of up to `HEADS` heads is solved.
    """
    of_given = empty.with_photos(given.head_inputs, given_labels)
    of_given.counts /= copies or 1  # copies say how photos vary, but are no further photos
    of_given.photos /= copies or 1
    if unseen is None or trained_logits is None:
        nothing_known = StatisticsReport(photos="varied" if copies else "given", head="trained", accuracy={})
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

    capacity = len(empty.means)
    fewest = int(np.bincount(unseen_labels, minlength=classes).min())
    if not fewest:  # means from two sources would favour the classes of one
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
    """Tells whether predictions are better than others, by more than chance may bring about.

    Their accuracy, a mean over classes, must be higher. Of the photos on which one is right and the other is
    not, chance gives each half, with a standard deviation of half their square root: the excess must be above
    two of these.
    """
    right, others_right = predictions == labels, others == labels
    gained, lost = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    is_higher = _accuracy(predictions, labels) > _accuracy(others, labels)
    return is_higher and gained - lost > 2 * float(np.sqrt(gained + lost))


def measured_tensors(settled: Settled, labels: Labels, capacity: int) -> Arrays:
    """Counts how often each class was recognised, which were confused most often, and their scores."""
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

"""Measures a trained network on photos that it never saw, and lets them decide what ships.

Photos that a network learnt by heart lie where no other photo lies: class means and covariance of them
describe nothing that a device will meet. Statistics are made from all photos, unless those with the means of
the unseen ones alone, or those of the learnt ones alone, recognise the unseen photos better (each by a head
that is solved without it). That head ships instead of the trained one if it is better too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..learning.class_statistics import ClassStatistics, Features, Labels, predict_unseen
from ..learning.running import Observation
from ..model.bundle import CONFUSIONS, RIGHT, TOTAL, Arrays, empty_tensors
from .reports import StatisticsReport


class Settled(NamedTuple):
    """Holds what was decided about a trained network's statistics and head.

    Attributes:
        statistics: Statistics of all classes.
        report: Report on the choice.
        predictions: Prediction for each unseen photo, by a head as the one that ships [M]; empty without any.
    """

    statistics: ClassStatistics
    report: StatisticsReport
    predictions: Labels


def settle(
    learnt: Observation,
    learnt_labels: Labels,
    unseen: Observation | None,
    unseen_labels: Labels,
    trained_logits: Features | None,
    empty: ClassStatistics,
    classes: int,
) -> Settled:
    """Decides from which photos the statistics are made, and whether the solved head ships.

    Args:
        learnt: Observation of the photos to make statistics from, usually those that the network learnt from.
        learnt_labels: class_index of each of them.
        unseen: Observation of photos that the network never saw; None if there are none.
        unseen_labels: class_index of each of these.
        trained_logits: Logits of the trained head for the unseen photos.
        empty: Statistics of no photos.
        classes: Number of classes.
    """
    of_learnt = empty.with_photos(learnt.head_inputs, learnt_labels)
    if unseen is None or trained_logits is None:
        report = StatisticsReport(photos="learnt", head="trained", accuracy={})
        return Settled(of_learnt, report, np.zeros(0, np.int64))

    def of_all(features: Features, labels: Labels) -> ClassStatistics:
        together = np.concatenate([learnt.head_inputs, features])
        return empty.with_photos(together, np.concatenate([learnt_labels, labels]))

    ways: dict[str, Callable[[Features, Labels], ClassStatistics]] = {
        "all": of_all,
        "unseen": of_learnt.with_photos,  # their means; the covariance is of all
        "learnt": lambda features, labels: of_learnt,
    }
    predictions = {
        way: predict_unseen(learn, unseen.head_inputs, unseen_labels, classes) for way, learn in ways.items()
    }
    predictions["trained"] = trained_logits.argmax(1)
    accuracy = {
        way: float(np.mean([(found[unseen_labels == c] == c).mean() for c in np.unique(unseen_labels)]))
        for way, found in predictions.items()
    }
    best = "all"  # the most photos, unless the unseen ones speak against it
    for way in ("unseen", "learnt"):
        if _is_better(predictions[way], predictions[best], unseen_labels):
            best = way
    head = "solved" if _is_better(predictions[best], predictions["trained"], unseen_labels) else "trained"
    return Settled(
        ways[best](unseen.head_inputs, unseen_labels),
        StatisticsReport(photos=best, head=head, accuracy=accuracy),
        predictions[best if head == "solved" else "trained"],
    )


def _is_better(predictions: Labels, others: Labels, labels: Labels) -> bool:
    """Tells whether predictions are right more often than others, by more than chance may bring about.

    Only photos count on which one is right and the other is not: by chance each side gets half of them, give
    or take half their square root.
    """
    right, others_right = predictions == labels, others == labels
    gained, lost = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    return gained - lost > float(np.sqrt(gained + lost))


def measured_tensors(predictions: Labels, labels: Labels, capacity: int) -> Arrays:
    """Counts how often each class was recognised, and which classes were confused most often."""
    arrays = empty_tensors(capacity, 1)
    np.add.at(arrays[TOTAL], labels, 1)
    np.add.at(arrays[RIGHT], labels[predictions == labels], 1)
    wrong = np.stack([labels, predictions], 1)[predictions != labels]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    rows = np.argsort(-counts, kind="stable")[: len(arrays[CONFUSIONS])]
    arrays[CONFUSIONS][: len(rows)] = np.concatenate([pairs[rows], counts[rows, None]], 1)
    return arrays

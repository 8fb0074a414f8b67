"""Measures a trained network on photos that it never saw, and lets them decide what ships.

The features of photos that a network knows by heart are unlike those of any other photos, so their means and
covariance do not describe the photos that a device will see. So there are three choices of photos for the
class statistics: all photos, the unseen ones, and those given for the statistics (by default, the training
photos). The choice to beat is all photos or, if the network knows its training photos by heart and there are
enough unseen ones, means of the unseen photos alone. Another choice wins if it recognises the unseen photos
better; each photo is judged by a head that is solved without it. In the same way, the head that is solved
from the statistics ships in place of the trained head if it recognises the unseen photos better.

Unless there are unseen photos of every class, there is no such choice: the statistics are made from the given
photos, and the trained head ships. If there are no unseen photos at all, and none were given for the
statistics, a network that was trained elsewhere is also tried on varied copies of the photos that it learnt
from. If it is right on nearly all of these photos but on far fewer copies, the statistics are made from the
copies, whose features are more like those of photos that it never saw.
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
from ..model.evaluation import is_clearly_better, mean_accuracy
from ..model.tensors import CONFUSIONS, HISTOGRAM, MEASURED, RIGHT, RIGHT_SOLVED, TOTAL, Arrays, empty_tensors
from ..model.unknown import count_scores, known_scores
from ..records import report_nothing
from .reports import StatisticsReport

HEADS = 2 * FOLDS + 1
"""Maximum number of heads that `settle` solves.

For each of two kinds of statistics, it solves one head per fold, without that fold. It solves one more head
from the given statistics.
"""

BY_HEART = 0.15
"""Gap between accuracy on training and on unseen photos above which a network knows its photos by heart."""
NEARLY_ALL = 0.99
"""Accuracy on training photos that suggests that they are known by heart, if there are no unseen ones."""

_ENOUGH_FOR_MEANS = 5  # unseen photos per class; a mean of fewer is worse than the mean of all photos
_ENOUGH_TO_JUDGE = 2  # without its only unseen photo, a class has no mean, so it is never recognised


class Settled(NamedTuple):
    """Holds the decision about the statistics and the head of a trained network.

    Attributes:
        statistics: Chosen statistics of all classes.
        report: Report on the choice.
        logits: Logits of each unseen photo by a head like the one that ships [M, classes]; M may be 0.
        solved: Logits of each unseen photo by a head like the one that a device would solve from the
            statistics [M, classes].
        scores: Each unseen photo's score for unknown objects, from statistics made without it [M].
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
    """Decides which photos the statistics are made from, and whether the solved head ships.

    Args:
        of_given: Statistics of the given photos, usually those that the network learnt from.
        unseen: Observation of photos that the network never saw; None if there are none.
        unseen_labels: class_index of each unseen photo.
        trained_logits: Logits of the trained head for the unseen photos; None if there are none.
        accuracy_on_learnt: Accuracy of the trained head on photos that the network learnt from.
        classes: Number of classes.
        report: Function that is called before each of up to `HEADS` heads is solved.
        are_copies: Whether the given photos are varied copies of those that the network learnt from.
    """
    if unseen is None or trained_logits is None:
        photos, nothing = "varied" if are_copies else "given", np.zeros((0, classes))
        unmeasured = StatisticsReport(photos=photos, head="trained", accuracy={})
        return Settled(of_given, unmeasured, nothing, nothing, np.zeros(0))
    trained = trained_logits.argmax(1)
    accuracy = {"trained": mean_accuracy(trained, unseen_labels)}
    fewest = int(np.bincount(unseen_labels, minlength=classes).min())
    if not fewest:  # if means came from two sources, the classes of one source would be favoured
        undecided = StatisticsReport(photos="given", head="trained", accuracy=accuracy)
        return Settled(
            of_given, undecided, trained_logits, *_judge_by_given(of_given, unseen, classes, report)
        )

    choices = _possible_statistics(of_given, unseen, unseen_labels, fewest)
    judged = _judge(choices, unseen, unseen_labels, classes, report)
    predictions = {name: found.logits.argmax(1) for name, found in judged.items()}
    accuracy |= {name: mean_accuracy(found, unseen_labels) for name, found in predictions.items()}
    is_by_heart = accuracy_on_learnt - accuracy["trained"] > BY_HEART
    best = "unseen" if is_by_heart and fewest >= _ENOUGH_FOR_MEANS else "all"
    for name in choices:
        if is_clearly_better(predictions[name], predictions[best], unseen_labels):
            best = name
    head = "solved" if is_clearly_better(predictions[best], trained, unseen_labels) else "trained"
    return Settled(
        choices[best],
        StatisticsReport(photos=best, head=head, accuracy=accuracy),
        judged[best].logits if head == "solved" else trained_logits,
        *judged[best],
    )


def _possible_statistics(
    of_given: ClassStatistics, unseen: Observation, labels: Labels, fewest: int
) -> dict[str, ClassStatistics]:
    """Makes all statistics to choose from, under the names of the photos that they are made from.

    Args:
        of_given: Statistics of the given photos.
        unseen: Observation of the unseen photos.
        labels: class_index of each unseen photo.
        fewest: Number of unseen photos of the class that has the fewest.
    """
    of_all = of_given.copy()
    of_all.learn_more(unseen.head_inputs, labels)
    choices = {"all": of_all}
    if fewest >= _ENOUGH_TO_JUDGE:
        # The covariance comes from all photos here too, but the means from the unseen photos alone.
        choices["unseen"] = of_given.with_photos(unseen.head_inputs, labels)
    return choices | {"given": of_given}


def _judge(
    choices: dict[str, ClassStatistics],
    unseen: Observation,
    labels: Labels,
    classes: int,
    report: Callable[[], None],
) -> dict[str, Unseen]:
    """Judges each unseen photo by heads and scores that are solved without it, for each of the choices."""
    judged = {}
    for name, statistics in choices.items():
        if name == "given":  # the given statistics were made without the unseen photos
            judged[name] = _judge_by_given(statistics, unseen, classes, report)
        else:
            solved = statistics.discriminant(classes, unseen.head_inputs, labels)
            judged[name] = judge_unseen(solved, len(statistics.means), report)
    return judged


def _judge_by_given(
    of_given: ClassStatistics, unseen: Observation, classes: int, report: Callable[[], None]
) -> Unseen:
    """Judges the unseen photos by statistics that were made without them."""
    report()
    solved = of_given.discriminant(classes)
    tensors = score_tensors(of_given, classes, solved.rows)
    scores = known_scores(unseen.head_inputs, tensors, classes)
    return Unseen(solved.head.logits(unseen.head_inputs), scores)


def measured_tensors(settled: Settled, labels: Labels, capacity: int) -> Arrays:
    """Makes the bundle's tensors that count recognised photos, confusions and scores of unseen photos."""
    arrays, predictions = empty_tensors(capacity, 1), settled.predictions
    np.add.at(arrays[TOTAL], labels, 1)
    np.add.at(arrays[RIGHT], labels[predictions == labels], 1)
    np.add.at(arrays[RIGHT_SOLVED], labels[settled.solved.argmax(1) == labels], 1)
    wrong = np.stack([labels, predictions], 1)[predictions != labels]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    rows = np.argsort(-counts, kind="stable")[: len(arrays[CONFUSIONS])]
    arrays[CONFUSIONS][: len(rows)] = np.concatenate([pairs[rows], counts[rows, None]], 1)
    arrays[HISTOGRAM] = count_scores(settled.scores, labels, capacity)
    return {name: arrays[name] for name in (*MEASURED, HISTOGRAM)}

"""Judges a student, and refuses it if it does not pass the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import Features, Labels
from ..learning.drift import measure_drift
from ..learning.reports import DriftReport
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.manifest import BASE
from ..model.tensors import HISTOGRAM, MEASURED
from ..model.unknown import Histogram, count_scores
from .gate import pass_gate
from .judgement import (
    hopeless_classes,
    judge_new_classes,
    mean_share_right,
    warn_about_near_copies,
    warn_about_new_classes,
    warn_about_unequal_classes,
)
from .reports import Mistake, NewClassReport
from .shipped import ShippedJudgement, judge_shipped
from .task import Task
from .values import Learnt


def evaluate_student(task: Task, learnt: Learnt) -> EvaluationReport:
    """Measures the student's accuracy on the held-back photos, with a head that has not learnt from them."""
    return evaluate_predictions(
        learnt.held_back_logits.argmax(1),
        np.array(task.photos.held_back.labels),
        all_class_names(task),
        task.parent.manifest.shipped_classes,
    )


def held_back_mistakes(task: Task, learnt: Learnt) -> tuple[Mistake, ...]:
    """Names the held-back photos that `evaluate_student` counts as not recognised."""
    names, photos = all_class_names(task), task.photos.held_back.photos
    predicted = learnt.held_back_logits.argmax(1)
    return tuple(
        Mistake(photo=photo.path, class_name=names[photo.label], taken_for=names[label])
        for photo, label in zip(photos, predicted.tolist(), strict=True)
        if photo.label != label
    )


class NewJudgement(NamedTuple):
    """Holds results for photos of the classes being learnt; no head judged a photo that it had learnt from.

    Attributes:
        classes: Report on each of these classes.
        scores: Each photo's score for unknown objects [M].
        labels: class_index of each photo [M].
    """

    classes: tuple[NewClassReport, ...]
    scores: Features
    labels: Labels


def judge_new(task: Task, learnt: Learnt, report: Callable[[], None]) -> NewJudgement:
    """Judges the new classes or, if there are none, the known ones that get more photos.

    Each photo is judged by a head that had not learnt from it. If nothing is trained, all photos of these
    classes count, as the head can be solved five times, each time leaving out another fifth of them;
    otherwise, only the held-back ones count.
    """
    names, first_new = all_class_names(task), len(task.parent.manifest.class_names)
    unseen, labels = learnt.judge_unseen(report)
    judged = range(first_new, len(names)) or sorted(set(task.photos.all_labels))
    classes = judge_new_classes(unseen.logits.argmax(1), labels, names, judged)
    return NewJudgement(classes, unseen.scores, labels)


def calibration(task: Task, new: NewJudgement) -> Histogram:
    """Puts the new scores of the classes being learnt into the calibration of the score for unknown objects.

    A network that was trained scores all photos differently, and photos of the other classes are not here to
    be scored again, so their old scores are dropped. If nothing was trained, their scores stay much the same,
    as benchmarks/unknown.py shows.
    """
    counts = count_scores(new.scores, new.labels, task.parent.manifest.capacity)
    if not task.approach.recipe.trains:
        before = task.parent.arrays(HISTOGRAM)[HISTOGRAM]
        before[np.unique(new.labels)] = 0  # more photos of a class move its mean, and so change its scores
        counts += before
    return counts


def judge_what_shipped(task: Task, learnt: Learnt, judged: Sequence[NewClassReport]) -> ShippedJudgement:
    """Judges how often the shipped classes are still recognised, given the judgement of the new ones."""
    parent = task.parent.manifest
    return judge_shipped(
        ClassStatistics.from_bundle(task.parent),
        learnt.statistics,
        learnt.teachers_head,
        learnt.head,
        task.parent.arrays(*MEASURED),
        parent.class_names[: parent.shipped_classes],
        new_right=mean_share_right(judged),
        solved=task.approach.recipe.head == "solved",
        # Renaming, removing classes and calibrating leave the network and the remaining rows as they were.
        is_first=parent.recipe == BASE,
    )


def find_drift(learnt: Learnt, shipped: ShippedJudgement) -> DriftReport:
    """Measures the drift of the student from its teacher."""
    return measure_drift(
        learnt.head,
        learnt.teachers_head,
        learnt.held_back,
        learnt.held_back_by_teacher,
        learnt.attention_distance,
        shipped.estimate,
    )


def pass_or_refuse(
    task: Task,
    accuracy: EvaluationReport,
    judged: Sequence[NewClassReport],
    drift: DriftReport,
    shipped: ShippedJudgement,
    learnt: Learnt,
) -> list[str]:
    """Refuses a model that does not pass the gate; otherwise returns the warnings for its owner."""
    parent, names = task.parent.manifest, all_class_names(task)
    hopeless = [*hopeless_classes(judged, len(names)), *shipped.lost]
    return [
        *pass_gate(task.config, accuracy, drift, hopeless, parent.shipped_classes),
        *shipped.warnings,
        *warn_about_new_classes(judged, parent.class_names),
        *warn_about_near_copies(names, task.photos.all_labels, learnt.near_copies),
        *warn_about_unequal_classes(names, learnt.statistics.counts),
    ]


def all_class_names(task: Task) -> tuple[str, ...]:
    """Lists the classes that the student knows, in class_index order."""
    return (*task.parent.manifest.class_names, *task.photos.new_classes)

"""Judges what a student has learnt, and refuses it if it does not pass the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..learning.class_statistics import ClassStatistics, Features, Labels
from ..learning.reports import DriftReport
from ..learning.running import Observation
from ..learning.unknown import score_tensors
from ..learning.unseen import judge_unseen
from ..model.bundle import HISTOGRAM, MEASURED
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.network import Network
from ..model.unknown import Histogram, count_scores, known_scores
from .gate import pass_gate
from .judgement import (
    hopeless_classes,
    judge_new_classes,
    warn_about_new_classes,
    warn_about_unequal_classes,
)
from .reports import NewClassReport
from .shipped import ShippedJudgement, judge_shipped
from .task import Task
from .teach import Learnt, teachers_statistics


def evaluate_student(task: Task, by_student: Observation) -> EvaluationReport:
    """Measures the student's accuracy on the held-back photos."""
    parent, photos = task.parent.manifest, task.photos
    return evaluate_predictions(
        by_student.logits(task.student).argmax(1),
        np.array(photos.held_back.labels),
        all_class_names(task),
        parent.shipped_classes,
    )


class NewJudgement(NamedTuple):
    """Holds what photos of the new classes say of a head that had not learnt them.

    Attributes:
        classes: Report on each new class.
        scores: Score for unknown objects of each of these photos [M].
        labels: class_index of each photo [M].
    """

    classes: tuple[NewClassReport, ...]
    scores: Features
    labels: Labels


def judge_new(task: Task, learnt: Learnt, report: Callable[[], None]) -> NewJudgement:
    """Judges the new classes by photos that the judged head had not learnt.

    Where nothing trains, all of their photos count, each judged by a head that is solved without it.
    """
    photos, student = task.photos, task.student
    labels, seen = np.array(photos.held_back.labels), learnt.held_back
    if task.approach.recipe.trains:
        logits = seen.logits(student)
        statistics = learnt.teachers_statistics.with_photos(
            learnt.to_learn.head_inputs, np.array(photos.to_learn.labels)
        )
        scores = known_scores(seen.head_inputs, score_tensors(statistics, student.classes), student.classes)
    else:
        labels = np.array(photos.to_learn.labels + photos.held_back.labels)
        features = np.concatenate([learnt.to_learn.head_inputs, seen.head_inputs])
        logits, scores = judge_unseen(
            learnt.teachers_statistics.with_photos, features, labels, student.classes, report
        )
    classes = judge_new_classes(logits.argmax(1), labels, all_class_names(task), task.teacher.classes)
    return NewJudgement(classes, scores, labels)


def calibration(task: Task, new: NewJudgement) -> Histogram:
    """Adds the new classes to the calibration of the score for unknown objects.

    A network that was trained scores all photos anew, and those of the old classes are not here, so nothing
    is known of theirs any more. One that stays as it is scores them much as before, which
    benchmarks/unknown.py measures.
    """
    counts = count_scores(new.scores, new.labels, task.parent.manifest.capacity)
    if not task.approach.recipe.trains:
        counts += task.parent.arrays(HISTOGRAM)[HISTOGRAM]
    return counts


def judge_what_shipped(task: Task, statistics: ClassStatistics) -> ShippedJudgement:
    """Judges what became of the shipped classes."""
    parent, measured = task.parent.manifest, task.parent.arrays(*MEASURED)
    return judge_shipped(
        teachers_statistics(task),
        statistics,
        _head(task.teacher),
        _head(task.student),
        measured,
        parent.class_names[: parent.shipped_classes],
        solved=task.approach.recipe.head == "solved",
        is_first=parent.increment_count == 0,
    )


def _head(network: Network) -> tuple[Features, Features]:
    weight, bias = (tensor.cpu().double().numpy() for tensor in network.head_tensors())
    return weight, bias


def pass_or_refuse(
    task: Task,
    accuracy: EvaluationReport,
    judged: Sequence[NewClassReport],
    drift: DriftReport,
    shipped: ShippedJudgement,
    statistics: ClassStatistics,
) -> list[str]:
    """Refuses a model that does not pass the gate; returns the warnings for the owner of one that does."""
    parent, names = task.parent.manifest, all_class_names(task)
    hopeless = [*hopeless_classes(judged, len(names)), *shipped.lost]
    return [
        *pass_gate(task.config, accuracy, drift, hopeless, parent.shipped_classes),
        *shipped.warnings,
        *warn_about_new_classes(judged, parent.class_names),
        *warn_about_unequal_classes(names, statistics.counts),
    ]


def all_class_names(task: Task) -> tuple[str, ...]:
    """Lists the classes that the student knows, in class_index order."""
    return (*task.parent.manifest.class_names, *task.photos.new_classes)

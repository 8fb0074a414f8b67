"""Judges what a student has learnt, and refuses it if it does not pass the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..learning.class_statistics import ClassStatistics, Features, predict_unseen
from ..learning.reports import DriftReport
from ..learning.running import Observation
from ..model.bundle import MEASURED
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.network import Network
from .gate import pass_gate
from .judgement import (
    hopeless_classes,
    judge_new_classes,
    mean_share_right,
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


def judge_new(task: Task, learnt: Learnt, report: Callable[[], None]) -> tuple[NewClassReport, ...]:
    """Judges the new classes by photos that the judged head had not learnt.

    Where nothing trains, all of their photos count, each judged by a head that is solved without it.
    """
    photos, student = task.photos, task.student
    labels, seen = np.array(photos.held_back.labels), learnt.held_back
    if task.approach.recipe.trains:
        predictions = seen.logits(student).argmax(1)
    else:
        labels = np.array(photos.to_learn.labels + photos.held_back.labels)
        features = np.concatenate([learnt.to_learn.head_inputs, seen.head_inputs])
        predictions = predict_unseen(
            learnt.teachers_statistics.with_photos, features, labels, student.classes, report
        )
    return judge_new_classes(predictions, labels, all_class_names(task), task.teacher.classes)


def judge_what_shipped(
    task: Task, statistics: ClassStatistics, judged: Sequence[NewClassReport]
) -> ShippedJudgement:
    """Judges what became of the shipped classes, given how the new ones are recognised."""
    parent, measured = task.parent.manifest, task.parent.arrays(*MEASURED)
    return judge_shipped(
        teachers_statistics(task),
        statistics,
        _head(task.teacher),
        _head(task.student),
        measured,
        parent.class_names[: parent.shipped_classes],
        new_right=mean_share_right(judged),
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

"""Judges what a student has learnt, and refuses it if it does not pass the gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..learning.class_statistics import ClassStatistics
from ..learning.reports import DriftReport
from ..model.bundle import HISTOGRAM, MEASURED
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.unknown import Histogram, count_scores
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
from .values import Learnt


def evaluate_student(task: Task, learnt: Learnt) -> EvaluationReport:
    """Measures the student's accuracy on the held-back photos, before it learns them too."""
    return evaluate_predictions(
        learnt.held_back_logits.argmax(1),
        np.array(task.photos.held_back.labels),
        all_class_names(task),
        task.parent.manifest.shipped_classes,
    )


def judge_new(task: Task, learnt: Learnt, report: Callable[[], None]) -> tuple[NewClassReport, ...]:
    """Judges the new classes by photos that the judged head had not learnt.

    Where nothing trains, all of their photos count, each judged by a head that is solved without it.
    """
    photos, names = task.photos, all_class_names(task)
    if learnt.unseen_logits is None:
        labels, logits = photos.held_back.labels, learnt.held_back_logits
    else:
        labels, logits = photos.all_labels, learnt.unseen_logits(report)
    new = range(len(task.parent.manifest.class_names), len(names))
    judged = new or sorted(set(photos.all_labels))
    return judge_new_classes(logits.argmax(1), np.array(labels), names, judged)


def calibration(task: Task, learnt: Learnt) -> Histogram:
    """Adds the photos to the calibration of the score for unknown objects.

    A network that was trained scores all photos anew, and those of the old classes are not here, so nothing
    is known of theirs any more. One that stays as it is scores them much as before, which
    benchmarks/unknown.py measures.
    """
    photos, parent = task.photos, task.parent
    labels = np.array(photos.held_back.labels if learnt.unseen_logits is None else photos.all_labels)
    counts = count_scores(learnt.scores(), labels, parent.manifest.capacity)
    if learnt.training:
        return counts
    before = parent.arrays(HISTOGRAM)[HISTOGRAM]
    before[np.unique(labels)] = 0  # further photos of a known class change its statistics
    return before + counts


def judge_what_shipped(task: Task, learnt: Learnt, judged: Sequence[NewClassReport]) -> ShippedJudgement:
    """Judges what became of the shipped classes, given how the new ones are recognised."""
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
        is_first=parent.increment_count == 0,
    )


def pass_or_refuse(
    task: Task,
    accuracy: EvaluationReport,
    judged: Sequence[NewClassReport],
    drift: DriftReport,
    shipped: ShippedJudgement,
    learnt: Learnt,
) -> list[str]:
    """Refuses a model that does not pass the gate; returns the warnings for the owner of one that does."""
    parent, names = task.parent.manifest, all_class_names(task)
    hopeless = [*hopeless_classes(judged, len(names)), *shipped.lost]
    return [
        *pass_gate(task.config, accuracy, drift, hopeless, parent.shipped_classes),
        *shipped.warnings,
        *warn_about_new_classes(judged, parent.class_names),
        *warn_about_unequal_classes(names, learnt.statistics.counts),
    ]


def all_class_names(task: Task) -> tuple[str, ...]:
    """Lists the classes that the student knows, in class_index order."""
    return (*task.parent.manifest.class_names, *task.photos.new_classes)

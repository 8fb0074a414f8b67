"""Keeps a student only if it is clearly better than a model whose network stayed as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import GateError
from ..model.evaluation import is_clearly_better
from .approach import instant_approach
from .judgement import judge_new_classes
from .reports import ComparisonReport, NewClassReport
from .task import Task
from .values import Learnt
from .verdict import all_class_names, evaluate_student, find_drift, judge_what_shipped, pass_or_refuse

_NOT_BETTER = "as training did not make the model clearly better"


def keep_the_better(task: Task, learnt: Learnt) -> tuple[Task, Learnt, ComparisonReport | None]:
    """Keeps the student only if it is clearly better than a model whose network stayed as it was.

    The student must recognise more of the held-back photos than the unchanged model, by more than chance
    would explain, because keeping it has a price: later increments then have no estimate for the shipped
    classes. The estimate for them must not be lower with the student than with the unchanged model, and the
    gate must not refuse the student. If either model has no estimate, nothing shows that the training did no
    harm, so the network stays as it was.

    Returns:
        The task with the approach that was kept, what was learnt, and the comparison; None in its place if
        there is nothing to compare.
    """
    approach = task.approach
    if learnt.untrained is None:
        if approach.compares:
            task = _without_training(task, f"{learnt.why_untrained}, so the network stays as it was")
        return task, learnt, None
    unchanged = replace(task, approach=instant_approach(approach, approach.reason))
    new, shipped = _accuracy(task, learnt)
    new_unchanged, shipped_unchanged = _accuracy(unchanged, learnt.untrained)
    harms_nothing = shipped is not None and shipped_unchanged is not None and shipped >= shipped_unchanged
    is_better = harms_nothing and _recognises_clearly_more(task, learnt, learnt.untrained)
    refused = is_better and _is_refused(task, learnt)
    report = ComparisonReport(
        kept="trained" if is_better and not refused else "unchanged",
        trained_new_accuracy=new,
        unchanged_new_accuracy=new_unchanged,
        trained_shipped_accuracy=shipped,
        unchanged_shipped_accuracy=shipped_unchanged,
        gate_refuses_trained=refused,
    )
    if report.kept == "trained":
        reason = f"{approach.reason}; the trained network is the better one: {report.in_words()}"
        kept = replace(task, approach=approach._replace(reason=reason))
        return kept, learnt._replace(untrained=None), report
    why = "although training made the model better" if refused else _NOT_BETTER
    reason = f"the network stays as it was, {why}: {report.in_words()}"
    return _without_training(task, reason), learnt.untrained, report


def _without_training(task: Task, reason: str) -> Task:
    """Returns the task of a model whose network stayed as it was, without the warnings about training."""
    about_training = task.learner.warnings
    warnings = tuple(warning for warning in task.warnings if warning not in about_training)
    return replace(task, approach=instant_approach(task.approach, reason), warnings=warnings)


def _accuracy(task: Task, learnt: Learnt) -> tuple[float, float | None]:
    """Returns the accuracy on the held-back photos, and the estimated accuracy on the shipped classes.

    The estimate is None if there is no figure, or if a class would be lost.
    """
    shipped = judge_what_shipped(task, learnt, _judged_by_held_back(task, learnt))
    now = shipped.estimate.now if shipped.estimate and not shipped.lost else None
    return evaluate_student(task, learnt).accuracy, now


def _recognises_clearly_more(task: Task, learnt: Learnt, untrained: Learnt) -> bool:
    """Returns whether the student recognises clearly more held-back photos than the unchanged model."""
    labels = np.array(task.photos.held_back.labels)
    found, found_untrained = (of.held_back_logits.argmax(1) for of in (learnt, untrained))
    return is_clearly_better(found, found_untrained, labels)


def _judged_by_held_back(task: Task, learnt: Learnt) -> tuple[NewClassReport, ...]:
    """Judges the new classes by the held-back photos alone, so that both models are judged alike."""
    names, first_new = all_class_names(task), len(task.parent.manifest.class_names)
    predictions, labels = learnt.held_back_logits.argmax(1), np.array(task.photos.held_back.labels)
    return judge_new_classes(predictions, labels, names, range(first_new, len(names)))


def _is_refused(task: Task, learnt: Learnt) -> bool:
    """Returns whether the gate refuses a model, so that the increment would end with nothing learnt."""
    judged = _judged_by_held_back(task, learnt)
    shipped = judge_what_shipped(task, learnt, judged)
    accuracy, drift = evaluate_student(task, learnt), find_drift(learnt, shipped)
    try:
        pass_or_refuse(task, accuracy, judged, drift, shipped, learnt)
    except GateError:
        return True
    return False

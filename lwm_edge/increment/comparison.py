"""Compares a student with a model whose network stayed as it was, and keeps the better one."""

from __future__ import annotations

from dataclasses import replace

from ..records import report_nothing
from .approach import instant_approach
from .reports import ComparisonReport
from .task import Task
from .values import Learnt
from .verdict import evaluate_student, judge_new, judge_what_shipped


def keep_the_better(task: Task, learnt: Learnt) -> tuple[Task, Learnt, ComparisonReport | None]:
    """Keeps the student only if it is better than a model whose network stayed as it was.

    The student must recognise more of the held-back photos, and the estimate for the shipped classes must not
    be lower. If either model has no such estimate, nobody knows what the training cost, so the network stays
    as it was.

    Returns:
        The task with the approach that was kept, what was learnt, and the comparison; None in its place if
        there is nothing to compare.
    """
    if learnt.untrained is None:
        return task, learnt, None
    approach = task.approach
    unchanged = replace(task, approach=instant_approach(approach, approach.reason))
    new, shipped = _accuracy(task, learnt)
    new_unchanged, shipped_unchanged = _accuracy(unchanged, learnt.untrained)
    harms_nothing = shipped is not None and shipped_unchanged is not None and shipped >= shipped_unchanged
    report = ComparisonReport(
        kept="trained" if new > new_unchanged and harms_nothing else "unchanged",
        trained_new_accuracy=new,
        unchanged_new_accuracy=new_unchanged,
        trained_shipped_accuracy=shipped,
        unchanged_shipped_accuracy=shipped_unchanged,
    )
    if report.kept == "trained":
        reason = f"{approach.reason}; the trained network is the better one: {report.in_words()}"
        kept = replace(task, approach=approach._replace(reason=reason))
        return kept, learnt._replace(untrained=None), report
    reason = f"training did not make the model better, so the network stays as it was: {report.in_words()}"
    return replace(task, approach=instant_approach(approach, reason)), learnt.untrained, report


def _accuracy(task: Task, learnt: Learnt) -> tuple[float, float | None]:
    """Returns the accuracy on the held-back photos, and the estimate for the shipped classes."""
    judged = judge_new(task, learnt, report_nothing).classes
    shipped = judge_what_shipped(task, learnt, judged)
    now = shipped.estimate.now if shipped.estimate and not shipped.lost else None
    return evaluate_student(task, learnt).accuracy, now

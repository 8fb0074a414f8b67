"""Judges how well the shipped classes are still recognised, although their photos are not on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import Head
from ..learning.regrouping import is_solved
from ..learning.reports import ShippedEstimate
from ..model.tensors import RIGHT, RIGHT_SOLVED, TOTAL, Arrays

_ERROR, _ERROR_OF_DROP = 0.03, 0.5  # a constant error, and a share of the drop; see `interval_around`
# Largest factor by which new photos correct an estimated drop in accuracy; its inverse is the smallest.
_MAX_CORRECTION = 2.0
_WIDEST = 0.4  # width of an interval beyond which an estimate is not shown as a figure
_LOSS_WORTH_A_WARNING = 0.25  # share of photos; a class that is estimated to lose more is named in a warning
_LISTED = 5
_MIN_CLASSES = 2  # one class alone is always recognised, whatever the spread


class ShippedJudgement(NamedTuple):
    """Says how well the shipped classes are still recognised.

    Attributes:
        estimate: Estimate of the accuracy on them; None if the vendor measured it on fewer than two of them.
        lost: Reasons to refuse the new model: classes that it would no longer recognise.
        warnings: Warnings about classes that lost much of their accuracy.
    """

    estimate: ShippedEstimate | None
    lost: list[str]
    warnings: list[str]


def judge_shipped(
    known: ClassStatistics,
    statistics: ClassStatistics,
    head_before: Head,
    head_now: Head,
    measured: Arrays,
    class_names: Sequence[str],
    *,
    new_right: float,
    solved: bool,
    is_first: bool,
) -> ShippedJudgement:
    """Judges the shipped classes by their statistics, starting from the vendor's measurements.

    Args:
        known: Statistics of the classes that the teacher knows, in its features.
        statistics: Statistics of all classes, in the student's features.
        head_before: Head of the teacher.
        head_now: Head of the student.
        measured: Tensors with the vendor's measurements, see `model.tensors`.
        class_names: Names of the shipped classes that are left.
        new_right: Share of photos recognised, averaged over the new classes. Each photo was judged by a head
            that had not learnt from it.
        solved: Whether the student's head is solved from statistics.
        is_first: Whether the teacher has the network and the head that shipped.
    """
    shipped = len(class_names)
    if not shipped:
        return ShippedJudgement(None, [], [])
    lost = _lost(known, statistics, head_before, head_now, class_names)
    right, right_solved, total = (measured[name][:shipped] for name in (RIGHT, RIGHT_SOLVED, TOTAL))
    is_measured = total > 0
    if not can_estimate(total):
        return ShippedJudgement(None, lost, [])
    as_shipped, by_solved = (
        float((counts[is_measured] / total[is_measured]).mean()) for counts in (right, right_solved)
    )
    # If training changes a solved head, the estimate still starts from the accuracy of a solved head.
    starts_solved = solved or is_solved(head_before.weight, known)
    accuracy, photos = by_solved if starts_solved else as_shipped, int(total.sum())
    per_photo = 1 / total[is_measured]
    # This many photos, spread evenly over the classes, would tell as much as the vendor's photos do.
    counted = is_measured.sum() ** 2 / per_photo.sum()
    alone = _head_alone(known, head_before, shipped, solved)
    # Even if every photo was recognised, the next one may not be.
    spread = known.find_spread(*alone, shipped, is_measured, min(accuracy, 1 - 0.5 / photos))
    at_first, before = (known.estimate_accuracy(*head, shipped, spread) for head in (alone, head_before))
    now = statistics.estimate_accuracy(*head_now, shipped, spread)
    correction = 1.0
    if solved and len(head_now[0]) > len(head_before[0]):
        new = statistics.estimate_accuracy(*head_now, len(head_now[0]), spread, first=len(head_before[0]))
        correction = _correction(new_right, float(new.mean()))
    before, now = ((at_first - correction * (at_first - share)).clip(0, 1) for share in (before, now))
    of_all = float(now[is_measured].mean())
    low, high = interval = interval_around(of_all, accuracy, counted)
    estimate = ShippedEstimate(
        measured=as_shipped,
        photos=photos,
        classes=int(is_measured.sum()),
        before=as_shipped if is_first else float(before[is_measured].mean()),
        now=of_all if high - low <= _WIDEST else None,
        interval=interval,
    )
    drops = at_first - now
    worst = [class_names[i] for i in np.argsort(-drops)[:_LISTED] if drops[i] > _LOSS_WORTH_A_WARNING]
    lost_most = f"by estimate, {', '.join(worst)} lost the most accuracy; check with lwm-edge evaluate"
    warnings = [lost_most] if worst else []
    return ShippedJudgement(estimate, lost, warnings)


def can_estimate(total: NDArray[Any]) -> bool:
    """Returns whether the vendor measured enough shipped classes.

    Args:
        total: Number of photos on which the vendor measured each shipped class that is left.
    """
    return int((total > 0).sum()) >= _MIN_CLASSES


def _head_alone(known: ClassStatistics, head_before: Head, shipped: int, solved: bool) -> Head:
    """Returns a head with which the teacher would rank the shipped classes if it knew no others."""
    weight, bias = (rows[:shipped] for rows in head_before)
    if not solved:
        return Head(weight, bias)
    if not is_solved(head_before.weight, known):
        return known.solve_head(shipped)
    # Solving the head for these classes alone would only rescale the logits and shift them all alike.
    return Head(weight - weight.mean(0), bias)


def _lost(
    known: ClassStatistics,
    statistics: ClassStatistics,
    head_before: Head,
    head_now: Head,
    class_names: Sequence[str],
) -> list[str]:
    """Lists the classes that this increment brings down to chance, judged by their statistics alone.

    Estimates from statistics are too high if the backbone stays as it is, so a class whose estimate is
    at chance is lost. After training, estimates can err either way; benchmarks/estimates.py compares them
    with photos.
    """
    shipped, chance = len(class_names), 1 / len(head_now[0])
    before = known.estimate_accuracy(*head_before, shipped)
    now = statistics.estimate_accuracy(*head_now, shipped)
    return [
        f"{name} would be lost: judging by its statistics, the new model recognises it no better than chance"
        for name, was, is_now in zip(class_names, before, now, strict=True)
        if is_now <= chance < was
    ]


def _correction(right: float, simulated_right: float) -> float:
    """Computes the factor that corrects a drop, from real photos of the new classes and simulated ones.

    A photo on the border between two classes goes to one or the other. So if real photos of the new classes
    are recognised more often than photos simulated from their statistics, the shipped classes lose more to
    the new ones than simulated photos show; if less often, they lose less. The square root is a compromise;
    benchmarks/README.md says what it was tried on. The factor holds for heads that are solved from the
    statistics; trained heads draw that border elsewhere.
    """
    ratio = right / max(simulated_right, 1e-6)
    return float(np.clip(np.sqrt(ratio), 1 / _MAX_CORRECTION, _MAX_CORRECTION))


def interval_around(estimate: float, measured: float, photos: float) -> tuple[float, float]:
    """Computes an interval around an estimate that starts from a measured accuracy.

    The interval is meant to contain the result of a second measurement on as many photos as the first. Its
    width has three parts: chance, which is Wilson's 95% interval (1927) for the measured accuracy, once for
    each of the two measurements; a constant; and a share of the drop, since the more a model is estimated to
    have lost, the less its statistics can be trusted. benchmarks/README.md says on which runs the last two
    were chosen.

    Args:
        estimate: Estimated accuracy.
        measured: Accuracy that was measured.
        photos: Number of photos that it was measured on, if they are spread evenly over the classes; if not,
            the number of classes times the harmonic mean of their numbers of photos, which gives the same
            uncertainty.
    """
    z = 1.96
    chance = z * (measured * (1 - measured) / photos + z**2 / (4 * photos**2)) ** 0.5 / (1 + z**2 / photos)
    half = (2 * chance**2 + _ERROR**2 + (_ERROR_OF_DROP * (measured - estimate)) ** 2) ** 0.5
    return max(0.0, estimate - half), min(1.0, estimate + half)

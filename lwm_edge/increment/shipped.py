"""Judges what became of the shipped classes, whose photos are not on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import Head
from ..learning.reports import ShippedEstimate
from ..model.bundle import RIGHT, RIGHT_SOLVED, TOTAL, Arrays

_ERROR, _ERROR_OF_DROP = 0.03, 0.5  # a constant error, and a share of the drop; see `interval_around`
_WIDEST = 0.4  # width of an interval beyond which an estimate is not shown as a figure
_WORTH_SAYING = 0.25  # share of its photos that a class is estimated to lose
_LISTED = 5
_MIN_CLASSES = 2  # one class alone is always recognised, whatever the spread


class ShippedJudgement(NamedTuple):
    """Says what became of the shipped classes.

    Attributes:
        estimate: Estimate of the accuracy on them; None if the vendor did not measure it.
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
    solved: bool,
    is_first: bool,
) -> ShippedJudgement:
    """Judges the shipped classes by their statistics, starting from what the vendor measured.

    Args:
        known: Statistics of the classes that the teacher knows, in its features.
        statistics: Statistics of all classes, in the student's features.
        head_before: Head of the teacher.
        head_now: Head of the student.
        measured: Tensors of what the vendor measured, see `model.bundle`.
        class_names: Names of the shipped classes that are left.
        solved: Whether the student's head is solved from statistics.
        is_first: Whether the teacher is the model that shipped.
    """
    shipped = len(class_names)
    if not shipped:
        return ShippedJudgement(None, [], [])
    lost = _lost(known, statistics, head_before, head_now, class_names)
    right, right_solved, total = (measured[name][:shipped] for name in (RIGHT, RIGHT_SOLVED, TOTAL))
    is_measured = total > 0
    if is_measured.sum() < _MIN_CLASSES:
        return ShippedJudgement(None, lost, [])
    as_shipped, by_solved = (
        float((counts[is_measured] / total[is_measured]).mean()) for counts in (right, right_solved)
    )
    accuracy, photos = by_solved if solved else as_shipped, int(total.sum())
    alone = known.solve_head(shipped) if solved else Head(*(rows[:shipped] for rows in head_before))
    # Even if every photo was recognised, the next one may not be.
    spread = known.find_spread(*alone, shipped, is_measured, min(accuracy, 1 - 0.5 / photos))
    at_first, before = (known.estimate_accuracy(*head, shipped, spread) for head in (alone, head_before))
    now = statistics.estimate_accuracy(*head_now, shipped, spread)
    of_all = float(now[is_measured].mean())
    low, high = interval = interval_around(of_all, accuracy, photos)
    estimate = ShippedEstimate(
        measured=as_shipped,
        photos=photos,
        classes=int(is_measured.sum()),
        before=as_shipped if is_first else float(before[is_measured].mean()),
        now=of_all if high - low <= _WIDEST else None,
        interval=interval,
    )
    drops = at_first - now
    worst = [class_names[i] for i in np.argsort(-drops)[:_LISTED] if drops[i] > _WORTH_SAYING]
    warnings = [f"{', '.join(worst)} lost the most accuracy; check with lwm-edge evaluate"] if worst else []
    return ShippedJudgement(estimate, lost, warnings)


def _lost(
    known: ClassStatistics,
    statistics: ClassStatistics,
    head_before: Head,
    head_now: Head,
    class_names: Sequence[str],
) -> list[str]:
    """Lists the classes that this increment brings down to chance, even by their statistics alone.

    Estimates from statistics are too good where the backbone stays as it is, so what they put at chance is
    lost. After training they can err either way; benchmarks/estimates.py compares them with photos.
    """
    shipped, chance = len(class_names), 1 / len(head_now[0])
    before = known.estimate_accuracy(*head_before, shipped)
    now = statistics.estimate_accuracy(*head_now, shipped)
    return [
        f"{name} would be lost: by its statistics the new model recognises it no better than chance"
        for name, was, is_now in zip(class_names, before, now, strict=True)
        if is_now <= chance < was
    ]


def interval_around(estimate: float, measured: float, photos: int) -> tuple[float, float]:
    """Computes an interval around an estimate that starts from a measured accuracy.

    Its width has three parts: Wilson's 95% interval (1927) for what was measured, a constant, and a share
    of the drop, since the more a model is estimated to have lost, the less its statistics can be trusted.
    The last two were chosen so that the intervals held what benchmarks/estimates.py measured on the demo's
    base, on an overfitted ResNet-18 and on a pretrained EfficientNet-Lite0.

    Args:
        estimate: Estimated accuracy.
        measured: Accuracy that was measured.
        photos: Number of photos that it was measured on.
    """
    z = 1.96
    chance = z * (measured * (1 - measured) / photos + z**2 / (4 * photos**2)) ** 0.5 / (1 + z**2 / photos)
    half = (chance**2 + _ERROR**2 + (_ERROR_OF_DROP * (measured - estimate)) ** 2) ** 0.5
    return max(0.0, estimate - half), min(1.0, estimate + half)

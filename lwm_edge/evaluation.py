"""Accuracy, single-headed: every class competes, and a figure is the mean over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .reports import Confusion, EvaluationReport

_LISTED_CONFUSIONS = 10


def evaluate_predictions(
    predictions: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    shipped_classes: int,
    skipped: Sequence[str] = (),
) -> EvaluationReport:
    """Counts what was right.

    Args:
        predictions: class_index predicted for each photo [M].
        labels: class_index of each photo [M], M >= 1.
        class_names: Of every index.
        shipped_classes: How many classes, from the front, count as old.
        skipped: Files left out.
    """
    present = sorted({int(label) for label in labels})
    accuracy = {c: float((predictions[labels == c] == c).mean()) for c in present}
    return EvaluationReport(
        photos=len(labels),
        accuracy=float(np.mean(list(accuracy.values()))),
        old_accuracy=_mean([accuracy[c] for c in present if c < shipped_classes]),
        new_accuracy=_mean([accuracy[c] for c in present if c >= shipped_classes]),
        per_class={class_names[c]: value for c, value in accuracy.items()},
        confusions=_confusions(predictions, labels, class_names),
        skipped=tuple(skipped),
    )


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _confusions(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[Confusion, ...]:
    wrong = predictions != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predictions[wrong]]), axis=1, return_counts=True)
    most_frequent = np.argsort(-counts, kind="stable")[:_LISTED_CONFUSIONS]
    return tuple(
        Confusion(actual=class_names[pairs[0, i]], predicted=class_names[pairs[1, i]], photos=int(counts[i]))
        for i in most_frequent
    )

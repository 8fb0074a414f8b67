"""Measures single-headed accuracy: all classes compete, and each figure is a mean over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..records import Report

_LISTED_CONFUSIONS = 10


class Confusion(Report):
    """Counts how often one class was taken for another.

    Attributes:
        actual: Name of the folder's class.
        predicted: Name of the class that the model predicted.
        photos: Number of photos.
    """

    actual: str
    predicted: str
    photos: int


class EvaluationReport(Report):
    """Reports single-headed accuracy: all classes compete, and each figure is a mean over classes.

    Attributes:
        photos: Number of photos.
        accuracy: Accuracy over all classes that had photos.
        old_accuracy: Accuracy over shipped classes; None if none of them had photos.
        new_accuracy: Accuracy over added classes; None if none of them had photos.
        per_class: Accuracy of each class that had photos.
        confusions: Most frequent confusions.
        skipped: Files left out, with the reason.
    """

    photos: int
    accuracy: float
    old_accuracy: float | None
    new_accuracy: float | None
    per_class: dict[str, float]
    confusions: tuple[Confusion, ...]
    skipped: tuple[str, ...] = ()


def evaluate_predictions(
    predictions: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    shipped_classes: int,
    skipped: Sequence[str] = (),
) -> EvaluationReport:
    """Counts what the predictions got right.

    Args:
        predictions: Predicted class_index of each photo [M].
        labels: class_index of each photo [M], M >= 1.
        class_names: Class name of every index.
        shipped_classes: Number of classes, from the front, that count as old.
        skipped: Files left out, with the reason.
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

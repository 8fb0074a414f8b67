"""Measures single-headed accuracy: all classes compete, and each counts equally."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..records import Report

TOP = 5
"""Number of best classes; a photo counts towards `top5_accuracy` if its class is among them."""

_LISTED_CONFUSIONS = 10


class Confusion(Report):
    """Counts how often one class was mistaken for another.

    Attributes:
        actual: Name of the class that the photos show, going by their folder.
        predicted: Name of the class that the model predicted.
        photos: Number of photos.
    """

    actual: str
    predicted: str
    photos: int


class EvaluationReport(Report):
    """Reports single-headed accuracy: all classes compete, and each counts equally.

    Attributes:
        photos: Number of photos.
        accuracy: Accuracy over all classes that had photos.
        old_accuracy: Accuracy over shipped classes; None if none of them had photos.
        new_accuracy: Accuracy over added classes; None if none of them had photos.
        per_class: Accuracy of each class that had photos.
        confusions: Most frequent confusions.
        skipped: Lines about the files that were left out, with the reason.
        top5_accuracy: Share of photos whose class is among the best five, as a mean over classes; None if it
            was not counted, or there are no more than five classes.
        photos_per_class: Number of photos of each class; empty if they were not counted.
        left_out: Names of the folders that are not classes of the model.
    """

    photos: int
    accuracy: float
    old_accuracy: float | None
    new_accuracy: float | None
    per_class: dict[str, float]
    confusions: tuple[Confusion, ...]
    skipped: tuple[str, ...] = ()
    top5_accuracy: float | None = None
    photos_per_class: dict[str, int] = Field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def evaluate_predictions(
    predictions: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    shipped_classes: int,
    skipped: Sequence[str] = (),
) -> EvaluationReport:
    """Measures how often predictions are right, and counts the most frequent confusions.

    Args:
        predictions: Predicted class_index of each photo [M].
        labels: class_index of each photo [M], M >= 1.
        class_names: Class name of every index.
        shipped_classes: Number of classes that count as old; they come first.
        skipped: Lines about the files that were left out, with the reason.
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
        photos_per_class={class_names[c]: int((labels == c).sum()) for c in present},
    )


def evaluate_ranks(
    ranks: NDArray[np.int64],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    shipped_classes: int,
    skipped: Sequence[str] = (),
) -> EvaluationReport:
    """Measures how often a photo's class ranks first, and how often it is among the best five.

    Args:
        ranks: class_index of each photo's best `TOP` classes, or of all classes if there are fewer, best
            first [M, k].
        labels: class_index of each photo [M], M >= 1.
        class_names: Class name of every index.
        shipped_classes: Number of classes that count as old; they come first.
        skipped: Lines about the files that were left out, with the reason.
    """
    report = evaluate_predictions(ranks[:, 0], labels, class_names, shipped_classes, skipped)
    among = (ranks[:, :TOP] == labels[:, None]).any(1)
    present = np.unique(labels)
    top5 = float(np.mean([among[labels == c].mean() for c in present])) if len(class_names) > TOP else None
    return report.model_copy(update={"top5_accuracy": top5})


def mean_accuracy(predictions: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Computes the mean accuracy over the classes that have photos."""
    return float(np.mean([(predictions[labels == c] == c).mean() for c in np.unique(labels)]))


def is_clearly_better(
    predictions: NDArray[np.int64], others: NDArray[np.int64], labels: NDArray[np.int64]
) -> bool:
    """Tells whether predictions are better than others by more than chance would explain.

    Their accuracy, a mean over classes, must be higher. A second condition concerns the n photos for which
    only one of the two predictions is right. By chance, each would be right for half of these photos, with
    a standard deviation of half the square root of n. The number for which the better predictions are right
    must exceed that half by over two standard deviations.

    Args:
        predictions: Predicted class_index of each photo [M].
        others: The same for another model.
        labels: class_index of each photo [M], M >= 1.
    """
    right, others_right = predictions == labels, others == labels
    gained, lost = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    is_higher = mean_accuracy(predictions, labels) > mean_accuracy(others, labels)
    return is_higher and gained - lost > 2 * float(np.sqrt(gained + lost))


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

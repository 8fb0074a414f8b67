"""Compares a variant of an ONNX file with the file itself, on photos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ...photos.photo_set import PhotoSet
from ...photos.pixels import Pixels
from ...records import ProgressCallback, Report, ignore_progress
from ..classifier import Classifier

_TIMED_RUNS, _UNTIMED_RUNS = 20, 3


class VariantReport(Report):
    """Compares a variant of an ONNX file with the file itself.

    Attributes:
        photos: Number of photos on which both were run; none of them was used to calibrate the variant.
        agreement: Share of these photos for which both predict the same class.
        min_agreement: Smallest such share at which the variant is written without `force`.
        accuracy: Accuracy of the variant; None if some photos are not of known classes.
        original_accuracy: Accuracy of the file itself; None in the same cases.
        onnx_bytes: Length of the variant.
        original_onnx_bytes: Length of the file itself.
        photo_ms: Median milliseconds that the variant takes for one photo on this machine, in batches of
            the variant's fixed size if it has one.
        original_photo_ms: Median milliseconds that the file itself takes for one photo, in the same batches.
    """

    photos: int
    agreement: float
    min_agreement: float
    accuracy: float | None
    original_accuracy: float | None
    onnx_bytes: int
    original_onnx_bytes: int
    photo_ms: float
    original_photo_ms: float


def compare(
    original: bytes,
    variant: bytes,
    photos: PhotoSet,
    labels: Sequence[int] | None,
    min_agreement: float,
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> VariantReport:
    """Runs both files on photos.

    Args:
        original: Content of the ONNX file.
        variant: Content of the variant.
        photos: Photos to run both on.
        labels: class_index of each photo; None if some photos are not of known classes.
        min_agreement: Smallest share of photos for which both must predict the same class.
        on_progress: Function that is called before each photo, once for each file.
    """
    files = [Classifier(original), Classifier(variant)]
    best = [file.predict(photos, on_progress=on_progress) for file in files]
    times = _times_in_turn(files, np.repeat(photos.load([0]), files[1].static_batch or 1, axis=0))
    accuracies = [None if labels is None else _accuracy(b, np.array(labels)) for b in best]
    return VariantReport(
        photos=len(photos.photos),
        agreement=float((best[0] == best[1]).mean()),
        min_agreement=min_agreement,
        original_accuracy=accuracies[0],
        accuracy=accuracies[1],
        original_onnx_bytes=len(original),
        onnx_bytes=len(variant),
        original_photo_ms=times[0],
        photo_ms=times[1],
    )


def _accuracy(best: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Computes the accuracy as a mean over classes, as `evaluate` does."""
    return float(np.mean([(best[labels == label] == label).mean() for label in np.unique(labels)]))


def _times_in_turn(files: Sequence[Classifier], images: Pixels) -> list[float]:
    """Measures each file's median milliseconds per image; the files take turns, under the same load."""
    times: list[list[float]] = [[] for _ in files]
    for run in range(_UNTIMED_RUNS + _TIMED_RUNS):
        for file, measured in zip(files, times, strict=True):
            started = time.perf_counter()
            file.run(images)
            if run >= _UNTIMED_RUNS:
                measured.append(1000 * (time.perf_counter() - started) / len(images))
    return [median(measured) for measured in times]

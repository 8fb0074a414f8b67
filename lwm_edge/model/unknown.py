"""Tells photos of known classes from photos of anything else, by one score and a calibrated threshold.

The score compares two explanations of a photo: the nearest class mean, and all classes together
(`learning.unknown` makes its tensors from the class statistics). A photo counts as unknown if its score lies
below a threshold that keeps a stated share of known photos. The threshold comes from photos that the model
had not learnt from when they were scored, by split conformal prediction: the next known photo from the same
source is kept with a probability of at least that share. See Angelopoulos and Bates 2023, "Conformal
Prediction: A Gentle Introduction". benchmarks/README.md says how well other scores do.

For each class, a bundle keeps a histogram of these scores, whose length does not depend on the number of
photos. The photos themselves are gone. The threshold is the lower edge of a bin, so it never keeps less than
the stated share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import Record
from .tensors import AXES, AXES_OFFSET, BINS, CENTRES, CENTRES_OFFSET, DAMPING, Arrays
from .terms import KEPT, SHARES

EDGES: NDArray[np.float64] = np.round(4 * np.sinh(np.arange(1 - BINS // 2, BINS // 2) / 10), 4)
"""Edges between the bins, from -1,089 to 1,089; around 0, they are close together."""

METADATA_LENGTH = 192
"""Length of the calibration in an ONNX file's metadata; it must not grow with the number of photos."""

Histogram = NDArray[np.int32]


class Calibration(Record):
    """Holds the thresholds for unknown objects, and says on how many photos they are based.

    Attributes:
        photos: Number of known photos whose scores were counted.
        classes: Number of classes to which these photos belong.
        thresholds: Threshold for each share of known photos to keep; a photo counts as unknown if the ONNX
            file's output `unknown` is above it. None if there are too few photos for that share, or if even
            photos with a score below all edges must be kept.
    """

    photos: int
    classes: int
    thresholds: dict[str, float | None]

    def threshold(self, share: float) -> float | None:
        """Returns the threshold that keeps a share of known photos, one of `SHARES`."""
        return self.thresholds[_key(share)]

    def has_enough_photos(self, share: float) -> bool:
        """Returns whether there are enough photos for a threshold that keeps a share of known photos."""
        return self.photos >= fewest_photos(share)


def known_scores(head_inputs: NDArray[Any], arrays: Arrays, classes: int) -> NDArray[np.float64]:
    """Computes each photo's score [M], higher for known photos; the ONNX file's output has the opposite sign.

    Args:
        head_inputs: The head's inputs for each photo [M, d].
        arrays: Tensors of the score.
        classes: Number of classes in use.
    """
    values = head_inputs @ arrays[AXES].T.astype(np.float64) + arrays[AXES_OFFSET]
    nearest = (values @ arrays[CENTRES][:classes].T + arrays[CENTRES_OFFSET][:classes]).max(1)
    scores: NDArray[np.float64] = nearest - values**2 @ arrays[DAMPING][0]
    return scores


def count_scores(scores: NDArray[Any], labels: NDArray[np.int64], capacity: int) -> Histogram:
    """Counts the scores of each class's photos in a histogram [capacity, 128].

    Args:
        scores: Score of each photo [M].
        labels: class_index of each photo [M].
        capacity: Number of rows.
    """
    histogram = np.zeros((capacity, BINS), np.int32)
    np.add.at(histogram, (labels, np.searchsorted(EDGES, scores, side="right")), 1)
    return histogram


def lowest_kept(histogram: Histogram, share: float) -> float | None:
    """Finds a score that at least a given share of known photos reach.

    If the next photo is equally likely to have any rank among n others, it has rank k or less with
    probability k / (n + 1).

    Args:
        histogram: Counts of the scores of photos of some classes [classes, 128].
        share: Share of known photos to keep.

    Returns:
        Lower edge of a bin; None if there are too few photos, or if even photos below all edges must be kept.
    """
    counts = histogram.sum(0, dtype=np.int64)
    rank = floor((int(counts.sum()) + 1) * (1 - share) + 1e-9)
    if rank < 1:
        return None
    bin_of_rank = int(np.searchsorted(counts.cumsum(), rank))
    return float(EDGES[bin_of_rank - 1]) if bin_of_rank else None


def is_kept(score: float) -> NDArray[np.bool_]:
    """Tells which of the bins [128] contain only scores at or above a given edge."""
    return np.concatenate([[False], score <= EDGES])


def fewest_photos(share: float) -> int:
    """Returns how many photos are needed to compute a threshold that keeps a share of known photos."""
    return int(np.ceil(share / (1 - share) - 1e-9))


def calibrate(histogram: Histogram) -> Calibration:
    """Computes the thresholds from the scores of all classes' photos [classes, 128]."""
    found = {_key(share): lowest_kept(histogram, share) for share in SHARES}
    return Calibration(
        photos=int(histogram.sum(dtype=np.int64)),
        classes=int(histogram.any(1).sum()),
        thresholds={key: None if score is None else 0.0 - score for key, score in found.items()},
    )


def kept_by_class(
    histogram: Histogram, class_names: Sequence[str], share: float = KEPT
) -> Mapping[str, tuple[int, int]]:
    """Counts how many of each class's photos the common threshold keeps, and how many there are.

    Classes with too few photos for a threshold of their own are left out, as their counts would show nothing.

    Args:
        histogram: Counts of the scores of each class's photos [classes, 128].
        class_names: Name of each class.
        share: Share of known photos that the threshold keeps.

    Returns:
        Number of photos that are kept and total number of photos, by the name of the class; empty if there is
        no common threshold.
    """
    score = lowest_kept(histogram, share)
    if score is None:
        return {}
    kept, rows = is_kept(score), zip(class_names, histogram, strict=False)
    counts = {name: (int(row[kept].sum()), int(row.sum())) for name, row in rows}
    return {name: count for name, count in counts.items() if count[1] >= fewest_photos(share)}


def to_metadata(calibration: Calibration) -> str:
    """Writes a calibration as JSON of a fixed length, for the metadata of an ONNX file."""
    return json.dumps(calibration.model_dump()).ljust(METADATA_LENGTH)


def listed_shares() -> str:
    """Lists the shares that can be chosen, for a message."""
    *others, last = map(_key, SHARES)
    return f"{', '.join(others)} or {last}"


def _key(share: float) -> str:
    return f"{share:g}"

"""Defines the report on a comparison of an ONNX file with its network; imports neither onnx nor numpy."""

from __future__ import annotations

from ...records import Report


class ParityReport(Report):
    """Reports how an ONNX file's results in ONNX Runtime compare with the network's.

    Attributes:
        batch_sizes: Batch sizes that were compared.
        largest_difference: Largest difference in a logit.
        tolerance: Allowed difference: 1e-4 * max(1, largest |logit|).
        real_photos: Whether photos were used for the comparison, rather than generated pictures.
    """

    batch_sizes: tuple[int, ...]
    largest_difference: float
    tolerance: float
    real_photos: bool

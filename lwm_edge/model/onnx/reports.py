"""Defines what a comparison of an ONNX file with its network returns; imports neither onnx nor numpy."""

from __future__ import annotations

from ...records import Report


class ParityReport(Report):
    """Compares the ONNX file with the network, from pixels, through ONNX Runtime.

    Attributes:
        batch_sizes: Batch sizes that were compared.
        largest_difference: Largest difference in a logit.
        tolerance: Allowed difference: 1e-4 x max(1, largest |logit|).
        real_photos: Whether photos were compared; if there are none, generated pictures are.
    """

    batch_sizes: tuple[int, ...]
    largest_difference: float
    tolerance: float
    real_photos: bool

"""Defines what building a base returns."""

from __future__ import annotations

from ..learning.reports import TrainingReport
from ..model.evaluation import EvaluationReport
from ..model.onnx.parity import ParityReport
from ..records import AnyNamePath, Report


class LevelsReport(Report):
    """Reports what a base's head reads of the network's earlier blocks, and why.

    Attributes:
        grid: Number of cells per side of the grid over earlier blocks; 0 if none is read.
        inputs: Number of the head's inputs, those of the last feature maps included.
        accuracy: Accuracy of each grid that was tried, cross-validated, with the earlier blocks alone.
    """

    grid: int
    inputs: int
    accuracy: dict[int, float]


class BaseReport(Report):
    """Reports what `build_base` made.

    Attributes:
        bundle: Path of the bundle.
        architecture: Key of the architecture.
        class_names: Class names in class_index order.
        capacity: Maximum number of classes in the bundle.
        bundle_bytes: Length of the bundle, which never changes.
        training: Report on the training; None if a checkpoint was taken as it is.
        levels: Levels that the head reads, and why.
        held_back: Accuracy on held-back photos, none of which the base learnt from; None if there are none.
        parity: Comparison of the ONNX graph with the network.
        attention_cells: Number of cells of the attention maps.
        warnings: Warnings for the vendor.
        model_digest: Digest of the model.
        seconds: Wall-clock time of building the base.
    """

    bundle: AnyNamePath
    architecture: str
    class_names: tuple[str, ...]
    capacity: int
    bundle_bytes: int
    training: TrainingReport | None
    levels: LevelsReport
    held_back: EvaluationReport | None
    parity: ParityReport
    attention_cells: int
    warnings: tuple[str, ...]
    model_digest: str
    seconds: float

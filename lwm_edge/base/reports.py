"""Defines the reports on building a base."""

from __future__ import annotations

from ..learning.reports import TrainingReport
from ..model.evaluation import EvaluationReport
from ..model.onnx.reports import ParityReport
from ..records import AnyNamePath, Report


class LevelsReport(Report):
    """Reports which grid a base's head uses to read the network's earlier blocks, and why.

    Attributes:
        grid: Number of cells per side of the grid over earlier blocks; 0 if none of them is read.
        inputs: Number of the head's inputs, those of the last feature maps included.
        accuracy: Cross-validated accuracy of each grid that was tried, with the earlier blocks alone.
    """

    grid: int
    inputs: int
    accuracy: dict[int, float]


class StatisticsReport(Report):
    """Reports from which photos the statistics were made and which head ships, and why.

    Attributes:
        photos: Photos from which the statistics were made: those `given` for this purpose (by default, those
            that the network learnt from), `varied` copies of these, the `unseen` ones, or `all`.
        head: Head that ships: `trained`, or `solved` from the statistics.
        accuracy: Accuracy on the unseen photos for each choice of photos (cross-validated) and for the
            `trained` head. It is empty if there are no unseen photos, so that nothing could be chosen.
    """

    photos: str
    head: str
    accuracy: dict[str, float]


class BaseReport(Report):
    """Reports what `build_base` or `pack_checkpoint` made.

    Attributes:
        bundle: Path of the bundle.
        architecture: Key of the architecture.
        class_names: Class names in class_index order.
        capacity: Maximum number of classes in the bundle.
        bundle_bytes: Length of the bundle, which never changes.
        training: Report on the training; None if a trained classifier was packed.
        levels: Levels that the head reads, and why.
        learnt: Accuracy of the trained head on the photos that it learnt from, which says little.
        unseen: Accuracy on photos that the network never saw; None if there are none. A solved head is judged
            by cross-validation.
        statistics: Choice of the photos for the statistics, and of the head.
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
    learnt: EvaluationReport
    unseen: EvaluationReport | None
    statistics: StatisticsReport
    parity: ParityReport
    attention_cells: int
    warnings: tuple[str, ...]
    model_digest: str
    seconds: float

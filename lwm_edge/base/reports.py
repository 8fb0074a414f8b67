"""Defines the reports on making a base, whether it is trained or packed."""

from __future__ import annotations

from ..learning.reports import TrainingReport
from ..model.evaluation import EvaluationReport
from ..model.manifest import Levels
from ..model.onnx.reports import ParityReport
from ..records import AnyNamePath, Report


class TriedLevels(Report):
    """Reports how well levels that were tried suit the vendor's photos.

    Attributes:
        levels: Levels that were tried.
        accuracy: Cross-validated accuracy of a head that reads only maps larger than the last ones.
    """

    levels: Levels
    accuracy: float


class LevelsReport(Report):
    """Reports which of the network's earlier blocks a base's head reads, on which grid, and why.

    Attributes:
        levels: Levels that the head reads; None if it reads the last feature maps alone.
        inputs: Number of the head's inputs, including those of the last feature maps.
        tried: Levels that were tried, one for each grid; empty if there was only one choice.
    """

    levels: Levels | None
    inputs: int
    tried: tuple[TriedLevels, ...]


class StatisticsReport(Report):
    """Reports which photos the statistics were made from and which head ships, and why.

    Attributes:
        photos: Photos that the statistics were made from: those `given` for this purpose (by default, those
            that the network learnt from), `varied` copies of these, `all` photos, or the `unseen` ones. With
            `unseen`, the means come from the unseen photos alone, and the covariance from all photos.
        head: Head that ships: `trained`, or `solved` from the statistics.
        accuracy: Accuracy on the unseen photos, for the `trained` head and for each choice of photos (where
            each photo is judged by a head that is solved without it). If a class has no unseen photo, only
            the `trained` head has a figure; without unseen photos, there are none.
    """

    photos: str
    head: str
    accuracy: dict[str, float]


class BaseReport(Report):
    """Reports what `build_base` or `pack_checkpoint` made.

    Attributes:
        bundle: Path of the bundle.
        architecture: Name of the architecture.
        class_names: Class names in class_index order.
        capacity: Maximum number of classes in the bundle.
        bundle_bytes: Length of the bundle, which never changes.
        training: Report on the training, without the head's own training that may follow; None if a trained
            classifier was packed.
        levels: Levels that the head reads, and why.
        learnt: Accuracy of the trained head on the photos that it learnt from, which says little.
        unseen: Accuracy on photos that the network never saw; None if there are none. If a solved
            head ships, each photo is judged by one that is solved without it.
        statistics: Choice of the photos for the statistics, and of the head.
        parity: Comparison of the ONNX graph with the network.
        attention_cells: Number of cells of the attention maps.
        warnings: Warnings for the vendor.
        model_digest: Digest of the model.
        seconds: Wall-clock time of making the base.
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

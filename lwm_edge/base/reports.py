"""What building a base returns."""

from __future__ import annotations

from ..learning.reports import TrainingReport
from ..model.evaluation import EvaluationReport
from ..model.onnx_file import ParityReport
from ..records import AnyNamePath, Report


class LevelsReport(Report):
    """What a base's head reads of the network's earlier blocks, and why.

    Attributes:
        grid: They are averaged over grid x grid cells; 0 where they are left out.
        inputs: Of the head, those of the last feature maps included.
        accuracy: Of each grid that was tried, cross-validated on the photos by the earlier blocks alone.
    """

    grid: int
    inputs: int
    accuracy: dict[int, float]


class BaseReport(Report):
    """What `build_base` made.

    Attributes:
        bundle: The file.
        architecture: Its key.
        class_names: In class_index order.
        capacity: Most classes it can hold.
        bundle_bytes: Its length, for ever.
        training: How the training went; None when a checkpoint was taken as it is.
        levels: What the head reads.
        held_back: Accuracy on held-back photos, none of which the base learnt from; None likewise.
        parity: Of the ONNX graph inside.
        attention_cells: Cells of its attention maps.
        warnings: What the vendor should know.
        model_digest: Of the model.
        seconds: Wall-clock time.
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

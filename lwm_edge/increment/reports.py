"""What an increment returns: its plan, and its receipt."""

from __future__ import annotations

from ..home.reports import FootprintReport
from ..learning.batches import Pace
from ..learning.reports import DriftReport, TrainingReport
from ..model.evaluation import EvaluationReport
from ..model.onnx_file import ParityReport
from ..records import AnyNamePath, Report

OLD_CLASSES_NOTE = (
    "Accuracy on the old classes cannot be measured on this device: their photos are not here. "
    "Run `lwm-edge evaluate` where they are."
)


class PlanReport(Report):
    """What an increment will take on this device.

    Attributes:
        micro_batch_size: Images computed at once.
        micro_batches_an_update: How many of them make one optimiser update.
        prefetch: Batches read ahead.
        recompute: Whether trained blocks are computed again in the backward pass, to save memory.
        keeps_freed_memory: Whether freed tensors stay in the process for the next step, which is faster.
        checkpoints: Whether the limit has room to save the training; otherwise, interrupted, it starts over.
        pixel_cache_bytes: Prepared photos kept in memory.
        limit_bytes: Most memory that the training process may take.
        limit_source: Where that comes from.
        predicted_peak_rss_bytes: Of the training process.
        smallest_limit_bytes: With which the increment would still go.
        predicted_seconds: Of training.
        disk_bytes: Free space needed while it runs.
        warnings: What the owner should know before it runs.
    """

    micro_batch_size: int
    micro_batches_an_update: int
    prefetch: int
    recompute: bool
    keeps_freed_memory: bool = False
    checkpoints: bool
    pixel_cache_bytes: int
    limit_bytes: int
    limit_source: str
    predicted_peak_rss_bytes: int
    smallest_limit_bytes: int
    predicted_seconds: float
    disk_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def pace(self) -> Pace:
        """What the training needs to know of it."""
        return Pace(self.micro_batch_size, self.prefetch, self.recompute)


class LearningReport(Report):
    """The part of a receipt that the learning process fills in.

    Attributes:
        recipe: By which it learnt.
        recipe_reason: Why by this one.
        beta: Weight of L_D.
        gamma: Weight of L_AD.
        new_classes: Learnt now, in the order of their class_index.
        photos_trained: Number of photos learnt from.
        photos_held_back: Number of photos kept for evaluation, and taken into the statistics after it.
        skipped: Files left out, with the reason.
        plan: What it was to take.
        training: How it went; None where the backbone stayed as it is.
        held_back: Accuracy on held-back photos of the new classes, all classes competing; a head that is
            solved took them in only afterwards.
        drift: From the teacher.
        warnings: What the owner should know.
    """

    recipe: str
    recipe_reason: str
    beta: float
    gamma: float
    new_classes: tuple[str, ...]
    photos_trained: int
    photos_held_back: int
    skipped: tuple[str, ...]
    plan: PlanReport
    training: TrainingReport | None
    held_back: EvaluationReport
    drift: DriftReport
    warnings: tuple[str, ...]


class IncrementReport(LearningReport):
    """The receipt of `add_classes`.

    Attributes:
        home: The model home.
        class_names: All classes.
        old_classes_note: What cannot be measured here.
        parity: Of the ONNX file.
        footprint: Bytes before and after.
        onnx: The exported classifier.
        model_digest: Of the new model; in the ONNX metadata too.
        parent_digest: Of the model before.
        seconds: Wall-clock time of it all.
    """

    home: AnyNamePath
    class_names: tuple[str, ...]
    old_classes_note: str = OLD_CLASSES_NOTE
    parity: ParityReport
    footprint: FootprintReport
    onnx: AnyNamePath
    model_digest: str
    parent_digest: str
    seconds: float

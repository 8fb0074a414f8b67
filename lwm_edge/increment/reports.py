"""Defines the reports on an increment (its plan and its receipt) and on a calibration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..home.reports import ChangeReport, FootprintReport, MemoryReport
from ..learning.batches import Pace
from ..learning.reports import DriftReport, TrainingReport
from ..model.evaluation import EvaluationReport
from ..model.onnx.reports import ParityReport
from ..model.terms import Precision
from ..model.unknown import Calibration
from ..records import AnyNamePath, Digest, ExactBytes, ExactPath, Report

OLD_CLASSES_NOTE = (
    "Accuracy on the old classes cannot be measured on this device: their photos are not here. "
    "Run `lwm-edge evaluate` where they are."
)


class PlanReport(Report):
    """Says how much memory, time and disk space an increment will take on this device.

    Attributes:
        micro_batch_size: Number of images processed at once.
        micro_batches_per_update: Number of micro-batches that make one optimiser update.
        prefetch: Number of batches read ahead.
        recompute: Whether trained blocks are computed again in the backward pass, to save memory.
        keeps_freed_memory: Whether memory is spent to save time: freed tensors' memory is kept for the next
            step, and kernels are copied with their channels last.
        precision: Precision in which the networks' blocks train.
        checkpoints: Whether the training can be saved; if not, interrupted training starts over.
        frozen_cache_bytes: Maximum bytes of the frozen blocks' outputs that are kept for all epochs.
        pixel_cache_bytes: Maximum bytes of prepared photos that are kept in memory.
        keeps_all_photos: Whether all prepared photos stay in memory. No photo is then read again, and the
            predicted peak leaves out the memory for reading one.
        limit_bytes: Maximum memory that the learning process may take.
        limit_source: Origin of `limit_bytes`, in words.
        predicted_peak_rss_bytes: Peak memory that the learning process is predicted to take.
        smallest_limit_bytes: Smallest limit with which the increment is certain to run. It leaves room for
            reading a photo, even if this plan reads none again.
        predicted_seconds: Time from the command's start to its end, as predicted.
        ending_seconds: Part of `predicted_seconds` after the last photo; None in plans of older versions.
        disk_bytes: Free disk space that the increment needs while it runs.
        warnings: Warnings for the owner, before the increment runs; empty in a receipt, which has its own.
        trains: Whether the network trains; if not, much of the above has no effect.
        recipe: Recipe that the increment will follow; empty in a receipt, which says what happened.
        recipe_reason: Reason for this recipe, in words; empty in a receipt too.
        class_photos: Number of usable photos of each class; empty in a receipt, which has its own figures.
        skipped: Files that are left out, each with the reason; empty in a receipt, which lists them itself.
    """

    micro_batch_size: int
    micro_batches_per_update: int
    prefetch: int
    recompute: bool
    keeps_freed_memory: bool = False
    precision: Precision = "float32"
    checkpoints: bool
    frozen_cache_bytes: int = 0
    pixel_cache_bytes: int
    keeps_all_photos: bool = False
    limit_bytes: int
    limit_source: str
    predicted_peak_rss_bytes: int
    smallest_limit_bytes: int
    predicted_seconds: float
    ending_seconds: float | None = None
    disk_bytes: int
    warnings: tuple[str, ...] = ()
    trains: bool = True
    recipe: str = ""
    recipe_reason: str = ""
    class_photos: dict[str, int] = Field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def pace(self) -> Pace:
        """Returns the part of the plan that the training follows."""
        return Pace(
            self.micro_batch_size, self.prefetch, self.recompute, self.precision, self.frozen_cache_bytes
        )


class NewClassReport(Report):
    """Reports how often one class was recognised, with all classes competing.

    Attributes:
        class_name: Name of the class.
        photos: Number of photos that were judged, each by a head that had not learnt from it.
        right: Number of these photos that were recognised.
        taken_for: Class that unrecognised photos were most often mistaken for; None if all were recognised.
        photos_taken: Number of photos that were mistaken for that class.
    """

    class_name: str
    photos: int
    right: int
    taken_for: str | None
    photos_taken: int


class CalibrationReport(Report):
    """Reports a calibration.

    Attributes:
        change: Report on the change to the home, which is also its receipt.
        photos: Number of photos that were scored.
        calibrated_classes: Names of the classes that these photos belong to.
        kept_before: Share of these photos that the old threshold would have kept; None if there was none.
        calibration: Thresholds after the change.
        skipped: Files that were left out, each with the reason.
        warnings: Warnings for the owner.
    """

    change: ChangeReport
    photos: int
    calibrated_classes: tuple[str, ...]
    kept_before: float | None
    calibration: Calibration
    skipped: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Mistake(Report):
    """Names a held-back photo that was not recognised.

    Attributes:
        photo: Path of the photo.
        class_name: Name of its class.
        taken_for: Name of the class that it was mistaken for.
    """

    photo: ExactPath
    class_name: str
    taken_for: str


class ComparisonReport(Report):
    """Compares a trained network with an unchanged one; `auto` keeps the first only if it is clearly better.

    Attributes:
        kept: Network that was kept.
        trained_new_accuracy: Accuracy on the held-back photos after the training.
        unchanged_new_accuracy: Accuracy on the held-back photos without it.
        trained_shipped_accuracy: Estimated accuracy on the shipped classes after the training; None if the
            estimate is missing or too uncertain for a figure, or if a class would be lost.
        unchanged_shipped_accuracy: The same without the training.
        gate_refuses_trained: Whether the trained network is the better one, but the gate would refuse it.
    """

    kept: Literal["trained", "unchanged"]
    trained_new_accuracy: float
    unchanged_new_accuracy: float
    trained_shipped_accuracy: float | None
    unchanged_shipped_accuracy: float | None
    gate_refuses_trained: bool = False

    def in_words(self) -> str:
        """Says how well both networks do."""
        new = (
            f"with training, {self.trained_new_accuracy:.1%} of the held-back photos are recognised, and "
            f"without it {self.unchanged_new_accuracy:.1%}"
        )
        shipped = self.trained_shipped_accuracy, self.unchanged_shipped_accuracy
        if shipped[0] is None or shipped[1] is None:
            return f"{new}; no estimate shows that training is safe for the shipped classes"
        found = (
            f"{new}; the accuracy on the shipped classes is estimated at {shipped[0]:.1%} with training and "
            f"{shipped[1]:.1%} without it"
        )
        return found + ("; the gate would refuse the trained network" if self.gate_refuses_trained else "")


class LearningReport(Report):
    """Holds the part of a receipt that the learning process fills in.

    Attributes:
        recipe: Name of the recipe that was used.
        recipe_reason: Reason for that recipe, in words.
        beta: Weight of the distillation loss (L_D).
        gamma: Weight of the attention distillation loss (L_AD).
        new_classes: Names of the classes that were added, in the order of their class_index.
        known_classes: Names of the classes that got further photos; if there are any, no class is new.
        photos_trained: Number of photos that the model has learnt from.
        photos_held_back: Number of photos that were kept for evaluation; the class statistics include them
            afterwards.
        photos_digest: Digest of the contents of all these photos, whatever their order; it shows whether a
            change learnt from a given set of photos. None in receipts of an older version.
        skipped: Files that were left out, each with the reason.
        plan: Plan that the increment followed.
        training: Report on the training; None if the backbone stayed as it was.
        held_back: Accuracy on the held-back photos, with all classes competing; a solved head learns from
            these photos only afterwards.
        judged: Report on each class that was taught: by cross-validation over all photos of the increment if
            nothing was trained, else on the held-back ones.
        drift: Drift of the student from its teacher.
        comparison: Comparison of the trained network with the unchanged one, if `auto` made both.
        warnings: Warnings for the owner.
        mistakes: Held-back photos that were not recognised. The call returns them, but receipts and JSON
            leave them out.
    """

    recipe: str
    recipe_reason: str
    beta: float
    gamma: float
    new_classes: tuple[str, ...]
    known_classes: tuple[str, ...] = ()
    photos_trained: int
    photos_held_back: int
    photos_digest: Digest | None = None
    skipped: tuple[str, ...]
    plan: PlanReport
    training: TrainingReport | None
    held_back: EvaluationReport
    judged: tuple[NewClassReport, ...]
    drift: DriftReport
    comparison: ComparisonReport | None = None
    warnings: tuple[str, ...]
    mistakes: tuple[Mistake, ...] = Field(default=(), exclude=True)


class IncrementReport(LearningReport):
    """Holds the receipt of `add_classes` or `add_photos`.

    Attributes:
        home: Path of the model home.
        class_names: Names of all classes of the new model.
        old_classes_note: Note on what cannot be measured on the device.
        parity: Comparison of the ONNX file with the network.
        footprint: Storage before and after, and the memory that the change took.
        onnx: Path of the exported classifier.
        model_digest: Digest of the new model, which is also in the ONNX metadata.
        parent_digest: Digest of the model before the increment.
        seconds: Wall-clock time from the start of the command, or of the call, to the commit; waiting until
            another change of the home is done does not count.
        seconds_by_part: Wall-clock time of each part: `start`, and then the phases of the progress.
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
    seconds_by_part: dict[str, float] = Field(default_factory=dict)


class LearntIncrement(Report):
    """Holds everything that the learning hands to the commit, except the model.

    Attributes:
        examples: Pixels of a few photos, one after another, for comparing the ONNX file with the network.
        logits: Logits that the student gives for each example.
        seconds_by_part: Time of each part so far.
        memory: Memory that the learning process took.
        sign_with: Path of the device's private key; None leaves the change unsigned.
        learning: Part of the receipt that is about the learning.
    """

    examples: ExactBytes
    logits: tuple[tuple[float, ...], ...]
    seconds_by_part: dict[str, float]
    memory: MemoryReport
    sign_with: ExactPath | None
    learning: LearningReport


class StagedIncrement(LearntIncrement):
    """Holds everything that a learning process hands to a committing one; the model is in a folder.

    Attributes:
        folder: Path of the staged generation, which holds only the bundle.
    """

    folder: ExactPath

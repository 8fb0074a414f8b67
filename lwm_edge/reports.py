"""What a report is, and what teaching leaves: progress, plan, receipt.

Reports are frozen records, also the receipts and the `--json` output. Fields carry their unit in their name;
accuracies are 0..1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


def printable(path: Path) -> str:
    """A path in text that UTF-8 can say: names of files need not be UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


AnyNamePath = Annotated[Path, PlainSerializer(printable, when_used="json")]
"""A path whose name need not be UTF-8, for people to read."""

ExactPath = Annotated[
    Path,
    PlainSerializer(lambda path: os.fsencode(path).decode("latin-1"), when_used="json"),
    BeforeValidator(lambda text: os.fsdecode(text.encode("latin-1")) if isinstance(text, str) else text),
]
"""A path as it goes from one process to another: each byte of its name one character."""


class Report(BaseModel):
    """Base of every report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Progress(Report):
    """One step of a long job, for progress bars.

    Attributes:
        phase: `photos`, `plan`, `features`, `train`, `evaluate`, `stage` or `commit`; `simulate` for whole
            increments.
        done: Steps done in the phase.
        total: Steps in the phase.
        loss: Of the latest optimiser update, while training.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None


ProgressCallback = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The callback of who does not want to know."""


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


class TrainingReport(Report):
    """How the training went.

    Attributes:
        epochs: Passes over the photos.
        steps: Optimiser updates.
        classification_loss: L_C, mean over the last epoch.
        distillation_loss: L_D before weighting; None where the recipe leaves it out.
        attention_distillation_loss: L_AD before weighting; None where the recipe leaves it out.
        step_ms: Mean time of an optimiser update.
        seconds: Wall-clock time.
    """

    epochs: int
    steps: int
    classification_loss: float
    distillation_loss: float | None
    attention_distillation_loss: float | None
    step_ms: float
    seconds: float


class DriftReport(Report):
    """How far the student moved from its teacher, measured on held-back photos of the new classes.

    Attributes:
        base_agreement: Share of photos on which both rank the same base class highest.
        probability_change: Mean absolute change of the base classes' sigmoid outputs.
        attention_distance: Mean L1 distance of the normalised attention maps (L_AD).
        estimated_shipped_accuracy: Share of features, drawn from the class statistics of the shipped classes,
            that the model gets right; before, and now; None where none is left. An estimate: where the
            backbone moved, the statistics were carried along.
    """

    base_agreement: float
    probability_change: float
    attention_distance: float
    estimated_shipped_accuracy: tuple[float, float] | None


class Confusion(Report):
    """One class taken for another.

    Attributes:
        actual: The folder's class.
        predicted: What the model said.
        photos: How often.
    """

    actual: str
    predicted: str
    photos: int


class EvaluationReport(Report):
    """Single-headed accuracy: all classes compete. Each figure is a mean over classes.

    Attributes:
        photos: Number of photos.
        accuracy: Over all classes that had photos.
        old_accuracy: Over shipped classes; None without photos of one.
        new_accuracy: Over added classes; None without photos of one.
        per_class: Of each class with photos.
        confusions: The most frequent ones.
        skipped: Files left out, with the reason.
    """

    photos: int
    accuracy: float
    old_accuracy: float | None
    new_accuracy: float | None
    per_class: dict[str, float]
    confusions: tuple[Confusion, ...]
    skipped: tuple[str, ...] = ()


class ParityReport(Report):
    """The ONNX file compared with the network, from pixels, through ONNX Runtime.

    Attributes:
        batch_sizes: Compared.
        largest_difference: Of two logits.
        tolerance: 1e-4 x max(1, largest |logit|).
        real_photos: Whether photos were compared, or generated pictures where none are at hand.
    """

    batch_sizes: tuple[int, ...]
    largest_difference: float
    tolerance: float
    real_photos: bool


class MemoryReport(Report):
    """Memory of one change, from its start until its result was there; `how` explains each figure.

    Attributes:
        peak_rss_bytes: Resident memory of the process.
        peak_anonymous_bytes: Its anonymous part; None where the system does not tell.
        peak_mapped_bytes: Its part that maps files or is shared; likewise.
        peak_tree_bytes: Resident memory of the process and all its children.
        peak_cgroup_bytes: Of the memory cgroup, with all others in it; None without one.
        peak_cuda_bytes: Of torch on the GPU; None where it was not used.
        teacher_networks: Networks alive besides the student.
        images_alive: Images in memory that were not there before.
        how: Each figure's name, and how it was taken.
    """

    peak_rss_bytes: int
    peak_anonymous_bytes: int | None
    peak_mapped_bytes: int | None
    peak_tree_bytes: int
    peak_cgroup_bytes: int | None
    peak_cuda_bytes: int | None
    teacher_networks: int
    images_alive: int
    how: dict[str, str]


class FootprintReport(Report):
    """Sizes in bytes, before and after.

    Attributes:
        bundle_bytes: Of model.lwm; never changes.
        bundle_bytes_before: Likewise, before.
        onnx_bytes: Of classifier.onnx; grows by the head's rows and the names.
        onnx_bytes_before: Likewise, before.
        peak_rss_bytes: High-water mark of resident memory of the process that made the change.
        export_peak_rss_bytes: Likewise, of the process that exported and committed it.
        memory: All that was measured of memory.
        ledger_head: Of the bundle's ledger after this change; see `ledger`.
    """

    bundle_bytes: int
    bundle_bytes_before: int
    onnx_bytes: int
    onnx_bytes_before: int
    peak_rss_bytes: int
    export_peak_rss_bytes: int
    memory: MemoryReport
    ledger_head: str | None


OLD_CLASSES_NOTE = (
    "Accuracy on the old classes cannot be measured on this device: their photos are not here. "
    "Run `lwm-edge evaluate` where they are."
)


class IncrementReport(Report):
    """The receipt of `add_classes`.

    Attributes:
        home: The model home.
        recipe: By which it learnt.
        recipe_reason: Why by this one.
        beta: Weight of L_D.
        gamma: Weight of L_AD.
        new_classes: Learnt now, in the order of their class_index.
        class_names: All classes.
        photos_trained: Number of photos learnt from.
        photos_held_back: Number of photos kept for evaluation, and taken into the statistics after it.
        skipped: Files left out, with the reason.
        plan: What it was to take.
        training: How it went; None where the backbone stayed as it is.
        held_back: Accuracy on held-back photos of the new classes, all classes competing; a head that is
            solved took them in only afterwards.
        drift: From the teacher.
        old_classes_note: What cannot be measured here.
        parity: Of the ONNX file.
        footprint: Bytes before and after.
        onnx: The exported classifier.
        model_digest: Of the new model; in the ONNX metadata too.
        parent_digest: Of the model before.
        warnings: What the owner should know.
        seconds: Wall-clock time of it all.
    """

    home: AnyNamePath
    recipe: str
    recipe_reason: str
    beta: float
    gamma: float
    new_classes: tuple[str, ...]
    class_names: tuple[str, ...]
    photos_trained: int
    photos_held_back: int
    skipped: tuple[str, ...]
    plan: PlanReport
    training: TrainingReport | None
    held_back: EvaluationReport
    drift: DriftReport
    old_classes_note: str = OLD_CLASSES_NOTE
    parity: ParityReport
    footprint: FootprintReport
    onnx: AnyNamePath
    model_digest: str
    parent_digest: str
    warnings: tuple[str, ...]
    seconds: float

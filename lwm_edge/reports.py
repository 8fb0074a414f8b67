"""What the public calls return: frozen records, also the receipts and the `--json` output.

Fields carry their unit in their name; accuracies are 0..1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from .ledger import Ledger
from .manifest import Activation, Preprocessing


def _printable(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


AnyNamePath = Annotated[Path, PlainSerializer(_printable, when_used="json")]
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
        drift: From the teacher, judged by the same photos.
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


class ChangeReport(Report):
    """What `init_home` and `remove_class` leave.

    Attributes:
        home: The model home.
        removed_class: Taken out, if any.
        class_names: All classes now.
        model_digest: Of the model now.
        parity: Of the ONNX file.
        footprint: Bytes before and after.
        onnx: The exported classifier.
        trusted_key: The vendor's public key that the home was told to trust, by `init_home`.
    """

    home: AnyNamePath
    removed_class: str | None
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport
    footprint: FootprintReport
    onnx: AnyNamePath
    trusted_key: str | None = None


class RepairReport(Report):
    """What `repair_home` did; the model itself is as it was.

    Attributes:
        home: The model home.
        repaired: A line for each thing that was wrong; empty where nothing was.
        class_names: All classes.
        model_digest: Of the model.
        parity: Of the new ONNX file; None where the files were right.
        onnx: The exported classifier.
    """

    home: AnyNamePath
    repaired: tuple[str, ...]
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport | None
    onnx: AnyNamePath


class BaseReport(Report):
    """What `build_base` made.

    Attributes:
        bundle: The file.
        architecture: Its key.
        class_names: In class_index order.
        capacity: Most classes it can hold.
        bundle_bytes: Its length, for ever.
        training: How the training went; None when a checkpoint was taken as it is.
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
    held_back: EvaluationReport | None
    parity: ParityReport
    attention_cells: int
    warnings: tuple[str, ...]
    model_digest: str
    seconds: float


class Prediction(Report):
    """One photo's best classes.

    Attributes:
        photo: The file.
        class_names: Best first.
        probabilities: Of the same.
        error: Why the photo could not be read; then the rest is empty.
    """

    photo: AnyNamePath
    class_names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


class PredictionReport(Report):
    """What `predict` saw.

    Attributes:
        onnx: The classifier that ran.
        model_digest: Of the model inside.
        predictions: One a photo.
    """

    onnx: AnyNamePath
    model_digest: str
    predictions: tuple[Prediction, ...]


class InfoReport(Report):
    """What a bundle or home holds.

    Attributes:
        home: The home, unless a bundle was asked.
        bundle: The bundle.
        onnx: The exported classifier, in a home.
        architecture: Its key.
        activation: What makes probabilities of logits.
        preprocessing: From a photo to the input.
        class_names: In class_index order.
        shipped_classes: How many the vendor shipped.
        capacity: Most classes it can hold.
        bundle_bytes: Its length.
        increment_count: Changes since it was shipped.
        recipe: Of the latest increment.
        model_digest: Of the model.
        parent_digest: Of the model before.
        ledger: The footprint of the increments.
    """

    home: AnyNamePath | None
    bundle: AnyNamePath
    onnx: AnyNamePath | None
    architecture: str
    activation: Activation
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    shipped_classes: int
    capacity: int
    bundle_bytes: int
    increment_count: int
    recipe: str
    model_digest: str
    parent_digest: str | None
    ledger: Ledger


class KeyReport(Report):
    """What `generate_key` wrote; never the secret.

    Attributes:
        private_key_file: To keep, readable by its owner alone.
        public_key_file: To give away.
        key: The public key, in hexadecimal.
    """

    private_key_file: AnyNamePath
    public_key_file: AnyNamePath
    key: str


class SigningReport(Report):
    """What `sign_bundle` signed.

    Attributes:
        bundle: The file, rewritten at the same length.
        bundle_bytes: Its length.
        model_digest: Of the model, as before.
        key: The vendor's public key, in hexadecimal.
    """

    bundle: AnyNamePath
    bundle_bytes: int
    model_digest: str
    key: str


class VerificationReport(Report):
    """What `verify` found. Nothing is proven unless it passed.

    Attributes:
        home: The home, unless a bundle was asked.
        bundle: The bundle.
        passed: Whether everything that was checked holds.
        problems: What does not.
        proven: What follows, in words.
        not_proven: What does not follow, in words.
        trusted_key: The vendor's public key that was verified against, in hexadecimal.
        trusted_key_file: Where it was read.
        base_digest: model_digest of the shipped base, as recorded.
        base_signed_by: The public key that the base's signature names.
        model_digest: Of the current model.
        changes: Since the base was shipped.
        links_recorded: Of them, how many the record still tells apart.
        links_signed: Of these, how many carry a device's signature.
        device_keys: The public keys that those name.
    """

    home: AnyNamePath | None
    bundle: AnyNamePath
    passed: bool
    problems: tuple[str, ...]
    proven: tuple[str, ...]
    not_proven: tuple[str, ...]
    trusted_key: str | None
    trusted_key_file: AnyNamePath | None
    base_digest: str | None
    base_signed_by: str | None
    model_digest: str
    changes: int
    links_recorded: int
    links_signed: int
    device_keys: tuple[str, ...]


class ExportReport(Report):
    """What `export_onnx` wrote.

    Attributes:
        onnx: The file.
        onnx_bytes: Its length.
        class_names: In the order of its outputs.
        model_digest: Of the model inside.
        parity: With the network.
    """

    onnx: AnyNamePath
    onnx_bytes: int
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport


class AuditItem(Report):
    """Some bytes of a home and what they are for.

    Attributes:
        owner: What they belong to.
        part: Tensor, file or section.
        bytes: How many.
    """

    owner: str
    part: str
    bytes: int


class OnnxGrowth(Report):
    """What classifier.onnx grew by since the home was made.

    Attributes:
        classes: Added since (less those removed).
        bytes: Grown.
        bytes_per_class: Their ratio; None without added classes.
        head_bytes: What the head's rows must take; None where the names of then are not known.
        names_bytes: What the names must take; likewise.
        framing_bytes: What numbers and lengths that became longer must take; likewise.
        explained: Whether these are all of it, to the byte; likewise.
    """

    classes: int
    bytes: int
    bytes_per_class: float | None
    head_bytes: int | None = None
    names_bytes: int | None = None
    framing_bytes: int | None = None
    explained: bool | None = None


class AuditReport(Report):
    """The auditor's account of a home.

    Attributes:
        home: The model home.
        passed: Whether all is explained.
        problems: What is not.
        items: Every byte by owner.
        total_bytes: Of all files and links in the home.
        accounted_bytes: Sum of the items.
        bundle_bytes: Length of model.lwm.
        bundle_bytes_shipped: Its length when the home was made.
        onnx_growth: None in a home without a ledger.
        ledger_entries: Increments that the ledger lists.
        ledger_head: Of its hash chain; None in one that an older lwm-edge made.
    """

    home: AnyNamePath
    passed: bool
    problems: tuple[str, ...]
    items: tuple[AuditItem, ...]
    total_bytes: int
    accounted_bytes: int
    bundle_bytes: int
    bundle_bytes_shipped: int
    onnx_growth: OnnxGrowth | None
    ledger_entries: int
    ledger_head: str | None

    def bytes_by_owner(self) -> dict[str, int]:
        """The items summed by owner, largest first."""
        sums: dict[str, int] = {}
        for item in self.items:
            sums[item.owner] = sums.get(item.owner, 0) + item.bytes
        return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


class DemoRow(Report):
    """One method in the demo: accuracy on the test photos before, and after each increment.

    Attributes:
        method: A recipe, or a rival.
        old: On the shipped classes.
        new: On the added classes; None before the first.
        all: On all classes.
    """

    method: str
    old: tuple[float, ...]
    new: tuple[float | None, ...]
    all: tuple[float, ...]


class DemoReport(Report):
    """What `run_demo` measured.

    Attributes:
        rows: One a method.
        increments: Classes added by each increment.
        bundle_bytes: Length of model.lwm before, and after each increment.
        onnx_bytes: Length of classifier.onnx likewise.
        home_bytes: Of the whole home, likewise.
        home: That the default recipe made.
        onnx: Its exported classifier.
        audit_passed: Whether the auditor explained every byte each time.
        seconds: Wall-clock time.
    """

    rows: tuple[DemoRow, ...]
    increments: tuple[tuple[str, ...], ...]
    bundle_bytes: tuple[int, ...]
    onnx_bytes: tuple[int, ...]
    home_bytes: tuple[int, ...]
    home: AnyNamePath
    onnx: AnyNamePath
    audit_passed: bool
    seconds: float


class SimulationStep(Report):
    """One simulated increment.

    Attributes:
        increment: Counted from 1.
        classes: Number of classes after it.
        file_bytes: Length of every file in the home; those of the current generation by their name.
        onnx_bytes_expected: Of classifier.onnx, reckoned from the classes.
        labels_bytes_expected: Of labels.txt, likewise.
        memory: What it took; `how` stands in the simulation's report.
        problems: That the audit of the home found after it.
        seconds: Wall-clock time.
    """

    increment: int
    classes: int
    file_bytes: dict[str, int]
    onnx_bytes_expected: int
    labels_bytes_expected: int
    memory: MemoryReport
    problems: tuple[str, ...]
    seconds: float


class Trend(Report):
    """A figure over the increments of a simulation.

    Attributes:
        figure: What was measured, in bytes.
        second: After the second increment; the first warms up.
        last: After the last.
        slope_bytes_per_class: Of the line fitted to it from the second increment on.
        explained_bytes_per_class: Slope of what the classes themselves must take.
        growth_bytes: What the fitted line rises by over the run, beyond what is explained.
        allowed_bytes: Most that it may, also from the second increment to the last; None is no condition.
        passed: Whether it does not.
    """

    figure: str
    second: int
    last: int
    slope_bytes_per_class: float
    explained_bytes_per_class: float = 0.0
    growth_bytes: float
    allowed_bytes: float | None
    passed: bool


class SimulationReport(Report):
    """What increments cost that were made to see.

    Attributes:
        home: Whose model they were made on, on a copy.
        passed: Whether storage and memory stay constant.
        problems: What does not, by name.
        recipe: By which they learnt.
        increments: How many.
        classes_per_increment: Learnt by each.
        photos_per_class: Generated ones; accuracy is not measured.
        isolated: Whether each had a process of its own.
        capacity: Of the copy.
        trends: Of every file and of memory.
        steps: The increments.
        how: How each memory figure was taken.
        plot: The picture, if one was asked for.
        seconds: Wall-clock time of it all.
    """

    home: AnyNamePath
    passed: bool
    problems: tuple[str, ...]
    recipe: str
    increments: int
    classes_per_increment: int
    photos_per_class: int
    isolated: bool
    capacity: int
    trends: tuple[Trend, ...]
    steps: tuple[SimulationStep, ...]
    how: dict[str, str]
    plot: AnyNamePath | None
    seconds: float

"""What making, changing, reading and asking a model leave, and the demo."""

from __future__ import annotations

from .ledger import Ledger
from .manifest import Activation, Levels, Preprocessing
from .reports import AnyNamePath, EvaluationReport, FootprintReport, ParityReport, Report, TrainingReport


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
        warnings: What the owner should know.
    """

    home: AnyNamePath
    removed_class: str | None
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport
    footprint: FootprintReport
    onnx: AnyNamePath
    trusted_key: str | None = None
    warnings: tuple[str, ...] = ()


class RepairReport(Report):
    """What `repair_home` did; the model itself is as it was.

    Attributes:
        home: The model home.
        repaired: A line for each thing that was wrong; empty where nothing was.
        class_names: All classes.
        model_digest: Of the model.
        parity: Of the new ONNX file; None where the files were right.
        onnx: The exported classifier.
        warnings: What the owner should know.
    """

    home: AnyNamePath
    repaired: tuple[str, ...]
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport | None
    onnx: AnyNamePath
    warnings: tuple[str, ...] = ()


class InfoReport(Report):
    """What a bundle or home holds.

    Attributes:
        home: The home, unless a bundle was asked.
        bundle: The bundle.
        onnx: The exported classifier, in a home.
        architecture: Its key.
        activation: What makes probabilities of logits.
        preprocessing: From a photo to the input.
        levels: Earlier blocks that the head reads too.
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
    levels: Levels | None
    class_names: tuple[str, ...]
    shipped_classes: int
    capacity: int
    bundle_bytes: int
    increment_count: int
    recipe: str
    model_digest: str
    parent_digest: str | None
    ledger: Ledger


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

"""Defines the reports that changing, repairing or exporting a home returns."""

from __future__ import annotations

from ..model.custody_record import ChangeKind
from ..model.onnx.comparison import VariantReport
from ..model.onnx.reports import ParityReport
from ..records import AnyNamePath, Report


class MemoryReport(Report):
    """Reports the memory that one change took before the model was exported; `how` explains each figure.

    Attributes:
        peak_rss_bytes: Peak of the process's resident memory.
        peak_anonymous_bytes: Peak of the anonymous resident memory; None if the system does not say.
        peak_mapped_bytes: Peak of the mapped or shared resident memory; None if the system does not say.
        peak_tree_bytes: Peak of the resident memory of the process and all its children.
        peak_cgroup_bytes: Peak memory of all processes in this process's cgroup; None if unknown.
        peak_cuda_bytes: Peak of torch's memory on the GPU; None if the GPU was not used.
        teacher_networks: Number of networks alive besides the student.
        images_alive: Number of images in memory that were not there before.
        how: Explanation of how each figure was measured, by the name of the figure.
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
    """Reports sizes in bytes, before and after a change.

    Attributes:
        bundle_bytes: Length of model.lwm, which never changes.
        bundle_bytes_before: Length of model.lwm before the change.
        onnx_bytes: Length of classifier.onnx, which grows with each class; see `proofs.onnx_growth`.
        onnx_bytes_before: Length of classifier.onnx before the change; the new length if a home was made.
        peak_rss_bytes: High-water mark of the resident memory of the process that made the change.
        export_peak_rss_bytes: High-water mark of the process that exported and committed the new model.
        memory: All memory figures of the change.
        ledger_head: Head of the bundle's ledger after this change; see `model.ledger`.
    """

    bundle_bytes: int
    bundle_bytes_before: int
    onnx_bytes: int
    onnx_bytes_before: int
    peak_rss_bytes: int
    export_peak_rss_bytes: int
    memory: MemoryReport
    ledger_head: str | None


class ChangeReport(Report):
    """Reports a change other than an increment, or the making of a home by `init_home`.

    Attributes:
        home: Path of the model home.
        change: Kind of the change; None if a home was made.
        changed_classes: Names of the classes that the change affected; only the first few if there are many.
            For a renaming, they are the old name and the new one; for a merge, the merged class and the
            class that it was merged into.
        increment: Number of the change; 0 if a home was made.
        removed_class: Name of the removed class, if any.
        remains: Sentences that say what is left of the removed class in the home.
        class_names: Names of all classes after the change.
        model_digest: Digest of the model after the change.
        parity: Comparison of the ONNX file with the network.
        footprint: Sizes in bytes, before and after.
        onnx: Path of the exported classifier.
        trusted_key: Vendor's public key, if `init_home` made the home trust one.
        warnings: Warnings for the owner.
    """

    home: AnyNamePath
    change: ChangeKind | None = None
    changed_classes: tuple[str, ...] = ()
    increment: int = 0
    removed_class: str | None
    remains: tuple[str, ...] = ()
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport
    footprint: FootprintReport
    onnx: AnyNamePath
    trusted_key: str | None = None
    warnings: tuple[str, ...] = ()


class RepairReport(Report):
    """Reports what `repair_home` did; the model itself is unchanged.

    Attributes:
        home: Path of the model home.
        repaired: Lines about the faults that were repaired; empty if nothing was wrong.
        class_names: Names of all classes.
        model_digest: Digest of the model.
        parity: Comparison of the new ONNX file with the network; None if the files were sound.
        onnx: Path of the exported classifier.
        warnings: Warnings for the owner.
    """

    home: AnyNamePath
    repaired: tuple[str, ...]
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport | None
    onnx: AnyNamePath
    warnings: tuple[str, ...] = ()


class ExportReport(Report):
    """Reports what `export_onnx` wrote.

    Attributes:
        onnx: Path of the file.
        onnx_bytes: Length of the file.
        class_names: Class names in the order of the outputs.
        model_digest: Digest of the model in the file.
        parity: Comparison of the ONNX file with the network, before the file was changed into another form.
        comparison: Comparison of the new form with the ONNX file on photos; None if no photos were given.
    """

    onnx: AnyNamePath
    onnx_bytes: int
    class_names: tuple[str, ...]
    model_digest: str
    parity: ParityReport
    comparison: VariantReport | None = None

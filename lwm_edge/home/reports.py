"""What changing a home returns."""

from __future__ import annotations

from ..model.onnx_file import ParityReport
from ..records import AnyNamePath, Report


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
        ledger_head: Of the bundle's ledger after this change; see `model.ledger`.
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

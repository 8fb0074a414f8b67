"""Defines the reports of the auditor and the simulation."""

from __future__ import annotations

from ..home.reports import MemoryReport
from ..records import AnyNamePath, Report


class AuditItem(Report):
    """Attributes some bytes of a home to an owner.

    Attributes:
        owner: Owner of the bytes.
        part: Tensor, file or section that holds the bytes.
        bytes: Number of bytes.
    """

    owner: str
    part: str
    bytes: int


class OnnxGrowth(Report):
    """Reports by how much classifier.onnx has grown since the home was made.

    Attributes:
        classes: Number of classes that were added, less those that were removed.
        bytes: Number of bytes that the file grew by.
        bytes_per_class: Bytes per added class; None without added classes.
        head_bytes: Bytes that the new rows of the head and of the score for unknown objects must take; None
            if the original class names are not known, or the file is not an ONNX file.
        names_bytes: Bytes that the new names must take; None in the same cases.
        framing_bytes: Bytes that the format needs to write larger numbers; None in the same cases.
        explained: Whether these three numbers are known and add up to exactly `bytes`; None if the original
            class names are not known.
    """

    classes: int
    bytes: int
    bytes_per_class: float | None
    head_bytes: int | None = None
    names_bytes: int | None = None
    framing_bytes: int | None = None
    explained: bool | None = None


class AuditReport(Report):
    """Reports what `audit` found in a home.

    Attributes:
        home: Path of the model home.
        passed: Whether everything in the home is explained.
        problems: Sentences about files, bytes or records that are not explained.
        items: Bytes that are accounted for, and their owners.
        total_bytes: Length of all files and links in the home.
        accounted_bytes: Sum of the items.
        bundle_bytes: Length of model.lwm.
        bundle_bytes_shipped: Length of model.lwm when the home was made.
        onnx_growth: Growth of classifier.onnx; None if the ledger is empty or the file is missing.
        ledger_entries: Number of entries that the ledger keeps: the latest ones, up to 16.
        ledger_head: Head of the ledger's hash chain; None if it is empty, or an older lwm-edge made it.
        not_audited: Names of extended attributes that the operating system sets by itself.
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
    not_audited: tuple[str, ...] = ()

    def bytes_by_owner(self) -> dict[str, int]:
        """Sums the items by owner, largest first."""
        sums: dict[str, int] = {}
        for item in self.items:
            sums[item.owner] = sums.get(item.owner, 0) + item.bytes
        return dict(sorted(sums.items(), key=lambda pair: -pair[1]))


class SimulationStep(Report):
    """Reports one simulated increment.

    Attributes:
        increment: Number of the increment, from 1.
        classes: Number of classes after the increment.
        file_bytes: Length of every file and link in the home, by path; in the current generation, by name
            alone.
        onnx_bytes_expected: Length of classifier.onnx, computed from the classes.
        labels_bytes_expected: Length of labels.txt, computed from the classes.
        memory: Memory that the increment took; `SimulationReport.how` says how it was measured.
        problems: Problems that an audit of the home found after the increment.
        seconds: Wall-clock time of generating the photos and learning from them.
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
    """Reports how a figure developed over the increments of a simulation.

    Attributes:
        figure: Name of the figure, which is in bytes.
        second: Value after the second increment; the first is a warm-up, so no rise is counted from it.
        last: Value after the last increment.
        slope_bytes_per_class: Slope of the line fitted to the values from the second increment on.
        explained_bytes_per_class: Slope of the bytes that the classes themselves must take.
        growth_bytes: Rise of the fitted line over the run, less the explained rise.
        allowed_bytes: Largest allowed rise of the line and of the last value; None if any rise is allowed.
        passed: Whether the rise is allowed; for a file, whether every length is exactly what it must be.
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
    """Reports the cost of simulated increments.

    Attributes:
        home: Path of the home; the increments were made on a copy of its model.
        passed: Whether storage and memory stay constant, and the audits found no problems.
        problems: Sentences about figures that do not stay constant, and about problems that audits found.
        recipe: Recipe of the increments.
        increments: Number of increments.
        classes_per_increment: Number of classes that each increment learnt.
        photos_per_class: Number of generated photos per class; accuracy is not measured.
        isolated: Whether each increment ran in processes of its own.
        capacity: Capacity of the copied model.
        trends: Trends of every file and of memory.
        steps: Reports of the increments.
        how: Explanations of how each memory figure was measured.
        plot: Path of the chart, if one was asked for.
        seconds: Wall-clock time of the whole simulation.
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

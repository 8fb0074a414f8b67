"""What the auditor found, and what simulated increments took."""

from __future__ import annotations

from ..home.reports import MemoryReport
from ..records import AnyNamePath, Report


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

"""Prints the reports on changes that need no photos, and the history of changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..records import printable
from ..wording import counted
from .display import notes
from .receipt import change_details
from .terminal import listed, print_rows

if TYPE_CHECKING:
    from .. import ChangeReport, InfoReport
    from ..home.readers import PastChange


def change(report: ChangeReport, details: bool = False) -> None:
    """Prints the report of `init`, or of a change that needs no photos."""
    title = (
        _describe(report.change, report.changed_classes, 0, report.increment)
        if report.change
        else f"model home {printable(report.home)} is ready"
    )
    rows = {
        **({"Still there": "\n".join(report.remains)} if report.remains else {}),
        "Classes": f"{len(report.class_names)}: {listed(report.class_names)}",
        "File to load": printable(report.onnx),
    }
    if report.trusted_key:
        rows["Trusts the key"] = report.trusted_key
    if details:
        rows |= change_details(report)
    print_rows(title[:1].upper() + title[1:], rows)
    notes(*report.warnings)


def _describe(change: str | None, names: Sequence[str], more: int, increment: int) -> str:
    """Says what a change did."""
    first, second = (*names, "", "")[:2]
    classes = ", ".join(names) + (f" and {more} more" if more else "")
    match change:
        case "rename-class":
            return f"renamed {first} to {second}"
        case "merge-classes":
            return f"merged {first} into {second}"
        case "remove-class":
            return f"removed {classes}"
        case "add-classes":
            return f"added {classes}"
        case "add-photos":
            return f"learnt from more photos of {classes}"
        case "calibrate":
            return f"calibrated the score for unknown objects with photos of {classes}"
        case "undo":
            return f"undid change {increment - 1}"
    return "the record does not say what it did"


def history(report: InfoReport) -> None:
    """Prints what was changed and when, as far back as the record reaches."""
    rows = {f"Change {past.increment}": _past(past) for past in report.history}
    if forgotten := report.increment_count - len(report.history):
        rows = {
            "Earlier changes": f"{counted(forgotten, 'change', 'changes')}, too old for the record",
            **rows,
        }
    print_rows(printable(report.home or report.bundle), rows or {"Changes": "none since it was shipped"})


def _past(past: PastChange) -> str:
    did = _describe(past.change, past.class_names, past.more_classes, past.increment)
    classes = "" if past.classes is None else f"; {counted(past.classes, 'class', 'classes')} afterwards"
    when = f"{past.time:%Y-%m-%d %H:%M} UTC: " if past.time else ""
    signed = f"signed by {past.signed_by[:16]}..." if past.signed_by else "not signed"
    return f"{when}{did}{classes}; {signed}"

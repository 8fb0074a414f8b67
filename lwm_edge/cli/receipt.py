"""Prints receipts in an owner's words: what was learnt, how well, what to watch out for, what to do next.

Figures for engineers (drift, digests, parity, memory) are printed with `--details`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..advice import home_option
from ..records import printable
from ..wording import counted
from .display import growth, left_out, parity_found
from .terminal import joined, percent, print_rows

if TYPE_CHECKING:
    from .. import ChangeReport, IncrementReport
    from ..increment.reports import NewClassReport
    from ..learning.reports import ShippedEstimate

_PARTS = {
    "start": "starting",
    "photos": "reading photos",
    "plan": "planning",
    "features": "looking at photos",
    "train": "training",
    "evaluate": "judging",
    "stage": "preparing the model",
    "commit": "saving and checking",
}
_LISTED = 12
_WELL_RECOGNISED = 0.5  # share of a class's photos; if fewer are recognised, the class should get more photos


def new_classes(report: IncrementReport, details: bool = False) -> None:
    """Prints the receipt for new classes."""
    classes = counted(len(report.new_classes), "class", "classes")
    names = joined(report.new_classes, _LISTED)
    _print(f"Learnt {classes} in {report.seconds:.0f} s: {names}", report, details)


def more_photos(report: IncrementReport, details: bool = False) -> None:
    """Prints the receipt for more photos of known classes."""
    photos = counted(report.photos_trained + report.photos_held_back, "more photo", "more photos")
    names = joined(report.known_classes, _LISTED)
    _print(f"Learnt from {photos} of {names} in {report.seconds:.0f} s", report, details)


def _print(title: str, report: IncrementReport, details: bool) -> None:
    rows = {
        "How well": _how_well(report),
        "Shipped classes": _shipped(report.drift.shipped) or report.old_classes_note,
        "Watch out": "\n".join(report.warnings) or "nothing stood out",
        "What next": "\n".join(_next_steps(report)),
        "File to load": printable(report.onnx),
        "Recipe": f"{report.recipe}: {_what_happened(report)}",
        **_compared(report),
        **(_details(report) if details else {}),
    }
    print_rows(title, rows)


def _how_well(report: IncrementReport) -> str:
    ranked = sorted(report.judged, key=_share)
    lines = [
        f"{c.class_name}: {c.right} of {counted(c.photos, 'photo', 'photos')} recognised"
        for c in ranked[:_LISTED]
    ]
    if more := ranked[_LISTED:]:
        share = percent(_share(more[0]))
        lines.append(f"and {len(more)} more, each recognised in at least {share} of its photos")
    source = "measured on photos that the model had not learnt from when it was judged"
    return "\n".join([*lines, f"{source}{left_out(report.skipped)}"])


def _share(judged: NewClassReport) -> float:
    return judged.right / judged.photos if judged.photos else 0.0


def _shipped(estimate: ShippedEstimate | None) -> str | None:
    if estimate is None:
        return None
    low, high = estimate.interval
    photos = (
        f"{counted(estimate.photos, 'photo', 'photos')} of {counted(estimate.classes, 'class', 'classes')}"
    )
    return (
        f"when shipped, {percent(estimate.measured)} of {photos} were recognised; now an estimated "
        f"{percent(low)} to {percent(high)} (about {percent(estimate.before)} before this increment)"
    )


def _next_steps(report: IncrementReport) -> list[str]:
    home = home_option(report.home)
    steps = []
    if weak := [c.class_name for c in report.judged if _share(c) < _WELL_RECOGNISED]:
        steps.append(f"give more photos of {joined(weak, _LISTED)}: lwm-edge add-photos PHOTOS {home}")
    steps.append(f"try it: lwm-edge predict PHOTO {home}")
    steps.append(
        f"measure it on labelled photos that it has not learnt from: lwm-edge evaluate PHOTOS {home}"
    )
    return steps


def _what_happened(report: IncrementReport) -> str:
    if report.training is None:
        return "the network stayed as it was; only its last layer was recomputed"
    epochs = counted(report.training.epochs, "pass", "passes")
    return f"the network was trained, in {epochs} over the photos"


def _compared(report: IncrementReport) -> dict[str, str]:
    if report.comparison is None:
        return {}
    kept = "trained network was kept" if report.comparison.kept == "trained" else "network stayed as it was"
    return {"Comparison": f"{report.comparison.in_words()}; so the {kept}"}


def _details(report: IncrementReport) -> dict[str, str]:
    held, drift, plan = report.held_back, report.drift, report.plan
    return {
        "Why this recipe": report.recipe_reason,
        "Photos": f"{report.photos_trained:,} learnt from, {report.photos_held_back:,} held back",
        "Held-back photos": f"{percent(held.accuracy)} right, with all classes competing",
        "Drift": f"on {percent(drift.base_agreement)} of the held-back photos, the best-scoring old class is "
        "the same as before"
        + (f"; attention moved by {drift.attention_distance:.2f}" if drift.attention_distance else ""),
        **_training(report),
        **growth(report.footprint),
        "Planned": f"{plan.predicted_peak_rss_bytes / 2**20:.0f} MiB, {plan.predicted_seconds:.0f} s",
        "Time": ", ".join(f"{_PARTS.get(p, p)} {s:.1f} s" for p, s in report.seconds_by_part.items()) or "-",
        "Verified": f"ONNX file {parity_found(report.parity)}",
        "Model digest": report.model_digest,
    }


def _training(report: IncrementReport) -> dict[str, str]:
    if report.training is None:
        return {}
    steps = f"{report.training.steps} steps of {report.training.step_ms:.0f} ms in {report.plan.precision}"
    at_once, planned = report.training.micro_batch_size, report.plan.micro_batch_size
    if at_once and at_once < planned:
        steps += f", {counted(at_once, 'photo', 'photos')} at once (the GPU had no memory for {planned})"
    return {"Training": f"{steps}, beta {report.beta:g}, gamma {report.gamma:g}"}


def change_details(report: ChangeReport) -> dict[str, str]:
    """Returns the rows with figures for engineers, about a change that trained nothing."""
    return {
        **growth(report.footprint),
        "Verified": f"ONNX file {parity_found(report.parity)}",
        "Model digest": report.model_digest,
    }

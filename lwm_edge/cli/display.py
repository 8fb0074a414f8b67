"""Prints reports for people: on plans, bases, repairs, accuracy, models, exports and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from ..model.terms import KEPT
from ..records import printable
from ..wording import counted, percent_reached
from .terminal import in_bytes, listed, note, out, percent, print_rows

if TYPE_CHECKING:
    from .. import (
        BaseReport,
        DemoReport,
        EvaluationReport,
        ExportReport,
        InfoReport,
        PlanReport,
        RepairReport,
    )
    from ..base.reports import LevelsReport, StatisticsReport
    from ..home.reports import FootprintReport
    from ..model.manifest import Levels
    from ..model.onnx.comparison import VariantReport
    from ..model.onnx.reports import ParityReport
    from ..model.unknown import Calibration


def notes(*lines: str) -> None:
    """Prints warnings on standard error."""
    for line in lines:
        note(f"Note: {line}")


def left_out(skipped: Sequence[str]) -> str:
    """Refers to the notes, printed while photos were read, that say which files were left out."""
    return " (the notes above say which files were left out)" if skipped else ""


def parity_found(parity: ParityReport) -> str:
    """Says how an ONNX file compares with the network."""
    what = "photos" if parity.real_photos else "generated pictures"
    difference = f"difference {parity.largest_difference:.1e}, {parity.tolerance:.1e} allowed"
    return f"agrees with the network on {what} ({difference})"


def growth(footprint: FootprintReport) -> dict[str, str]:
    """Says by how much the files grew, and how much memory the change took."""
    bundle, onnx = footprint.bundle_bytes, footprint.onnx_bytes
    return {
        "Bundle": f"{in_bytes(bundle)} ({bundle - footprint.bundle_bytes_before:+,})",
        "ONNX file": f"{in_bytes(onnx)} ({onnx - footprint.onnx_bytes_before:+,})",
        "Peak memory": f"{footprint.peak_rss_bytes / 2**20:.0f} MiB in one process",
    }


def plan(report: PlanReport) -> None:
    """Prints how much memory, time and disk space an increment will take."""
    mib = 2**20
    rows = {
        **_photos_of(report),
        **({"Recipe": f"{report.recipe}: {report.recipe_reason}"} if report.recipe else {}),
        "Peak memory": f"{report.predicted_peak_rss_bytes / mib:.0f} MiB predicted, "
        f"{report.limit_bytes / mib:.0f} MiB allowed ({report.limit_source}), "
        f"{-(-report.smallest_limit_bytes // mib)} MiB would be enough{_for_what(report)}",
        **(_plan_of_training(report) if report.trains else {}),
        "Time": f"about {report.predicted_seconds:.0f} s from the command's start to its end",
        "Disk": f"{in_bytes(report.disk_bytes)} must be free while it runs",
        "What next": "to learn from the photos, run the same command without --dry-run",
    }
    print_rows("The plan; nothing was learnt", rows)
    notes(*report.warnings)


def _for_what(report: PlanReport) -> str:
    more = report.smallest_limit_bytes > report.predicted_peak_rss_bytes
    return ", including memory to read the photos" if more else ""


def _plan_of_training(report: PlanReport) -> dict[str, str]:
    """Says how the network will be trained."""
    return {
        "Micro-batch": f"{counted(report.micro_batch_size, 'image', 'images')}; "
        f"{counted(report.micro_batches_per_update, 'micro-batch', 'micro-batches')} per update",
        "Precision": report.precision,
        "Photo cache": f"{report.pixel_cache_bytes / 2**20:.0f} MiB",
        "Recomputing": "trained blocks, to save memory" if report.recompute else "nothing",
        "Freed memory": "kept for the next step, to save time"
        if report.keeps_freed_memory
        else "returned at once",
        "If interrupted": "the same command continues the training"
        if report.checkpoints
        else "the training starts over, as its state cannot be saved",
        **_kept_of_frozen_blocks(report),
    }


def _photos_of(report: PlanReport) -> dict[str, str]:
    per_class = report.class_photos
    photos = counted(sum(per_class.values()), "photo", "photos")
    return {
        "Classes": listed(tuple(f"{name} ({photos})" for name, photos in per_class.items())),
        "Photos": f"{photos} of {counted(len(per_class), 'class', 'classes')}{left_out(report.skipped)}",
    }


def _kept_of_frozen_blocks(report: PlanReport) -> dict[str, str]:
    mib = report.frozen_cache_bytes / 2**20
    return {"Frozen blocks": f"{mib:.0f} MiB of their outputs are kept for all epochs"} if mib else {}


def base(report: BaseReport) -> None:
    """Prints the report of `build-base` or `pack`."""
    rows = {
        "Bundle": f"{printable(report.bundle)}, {in_bytes(report.bundle_bytes)}; this length never changes",
        "Network": report.architecture,
        "Classes": f"{len(report.class_names)} of at most {report.capacity}: {listed(report.class_names)}",
        "Accuracy": _base_accuracy(report),
        "Statistics": _statistics(report.statistics),
        "Attention maps": counted(report.attention_cells, "cell", "cells"),
        "Head": _levels(report.levels),
        "Verified": f"ONNX graph {parity_found(report.parity)}",
        "Model digest": report.model_digest,
    }
    print_rows(f"Base made in {report.seconds:.0f} s", rows)
    notes(*report.warnings)


def _base_accuracy(report: BaseReport) -> str:
    learnt = f"{percent(report.learnt.accuracy)}, with the trained head, on the photos that it learnt from"
    if report.unseen is None:
        return f"unknown on photos that it never saw; {learnt}"
    photos = counted(report.unseen.photos, "photo", "photos")
    return f"{percent(report.unseen.accuracy)} on {photos} that it never saw; {learnt}"


def _statistics(report: StatisticsReport) -> str:
    photos = {
        "all": "all photos",
        "unseen": "photos that the network never saw",
        "given": "the photos that the network learnt from (or those given instead)",
        "varied": "varied copies of the photos, as the network knows the photos themselves by heart",
    }
    heads = {"trained": "trained head", "given": "head without unseen photos"}
    tried = ", ".join(
        f"{heads.get(way, f'head from {way} photos')} {percent(accuracy)}"
        for way, accuracy in report.accuracy.items()
    )
    why = f" (accuracy on unseen photos: {tried})" if tried else ""
    return f"made from {photos[report.photos]}; the {report.head} head ships{why}"


def _levels(report: LevelsReport) -> str:
    tried = ", ".join(
        f"{trial.levels.grid}x{trial.levels.grid} {percent(trial.accuracy)}" for trial in report.tried
    )
    accuracy = {trial.levels: trial.accuracy for trial in report.tried}
    if report.levels and accuracy and max(accuracy.values()) > accuracy[report.levels]:
        tried += "; no finer grid is clearly better"
    why = f" (accuracy with the larger maps of these blocks alone: {tried})" if tried else ""
    return f"reads {report.inputs} values: {_reads(report.levels)}{why}"


def _reads(levels: Levels | None) -> str:
    return "the last feature maps" + (f", and {_blocks(levels)}" if levels else "")


def _blocks(levels: Levels) -> str:
    blocks = counted(len(levels.blocks), "earlier block", "earlier blocks")
    return f"{blocks} on a grid of {levels.grid}x{levels.grid}"


def repair(report: RepairReport) -> None:
    """Prints which files were repaired."""
    rows = {
        "Repaired": "; ".join(report.repaired) or "nothing: all files match the bundle",
        "Classes": f"{len(report.class_names)}: {listed(report.class_names)}",
        "File to load": printable(report.onnx),
        "Model digest": report.model_digest,
    }
    print_rows(f"Model home {printable(report.home)}", rows)
    notes(*report.warnings)


def evaluation(report: EvaluationReport) -> None:
    """Prints accuracy, overall and by class, and confusions."""
    rows = {
        "Shipped classes": percent(report.old_accuracy),
        "Added classes": percent(report.new_accuracy),
        "All classes": percent(report.accuracy),
    }
    if report.top5_accuracy is not None:
        rows["In the top 5"] = percent(report.top5_accuracy)
    photos = f"{counted(report.photos, 'photo', 'photos')}{left_out(report.skipped)}"
    print_rows(f"Accuracy on {photos}, mean over classes, with all classes competing", rows)
    counts = {
        name: f"{round(share * report.photos_per_class[name]):,} of "
        f"{counted(report.photos_per_class[name], 'photo', 'photos')}, {percent(share)}"
        for name, share in report.per_class.items()
    }
    print_rows("By class", counts)
    if report.confusions:
        print_rows(
            "Most often confused",
            {f"{c.actual} mistaken for {c.predicted}": str(c.photos) for c in report.confusions},
        )
    if report.left_out:
        notes(f"left out, as the model does not know these classes: {', '.join(report.left_out)}")


def info(report: InfoReport) -> None:
    """Prints what a home or bundle holds."""
    added = report.class_names[report.shipped_classes :]
    size = report.preprocessing.image_size
    rows = {
        "Shipped classes": ", ".join(report.class_names[: report.shipped_classes]) or "none",
        "Added classes": ", ".join(added) or "none",
        "Capacity": f"{report.capacity} classes, {report.capacity - len(report.class_names)} free",
        "Network": f"{report.architecture}, {size}x{size} pixels, {report.activation} outputs",
        "Head": f"reads {_reads(report.levels)}",
        "Bundle": f"{printable(report.bundle)}, {in_bytes(report.bundle_bytes)}",
        "Unknown objects": threshold(report.unknown),
        "Changes": f"{report.increment_count} since it was shipped; latest recipe: {report.recipe}",
        "Model digest": report.model_digest,
    }
    if report.onnx:
        rows["ONNX file"] = printable(report.onnx)
    if left_off := report.interrupted:
        photos = f" from the photos in {printable(left_off.photos)}" if left_off.photos else ""
        rows["Interrupted"] = (
            f"learning{photos} stopped at step {left_off.step}\n"
            f"to continue it: {left_off.resume}\nto start over: {left_off.resume} --fresh"
        )
    print_rows(printable(report.home or report.bundle), rows)


def threshold(calibration: Calibration) -> str:
    """Says what share of photos of known classes the threshold accepts, and what it is based on."""
    photos = counted(calibration.photos, "photo", "photos")
    based = f"{photos} of {counted(calibration.classes, 'class', 'classes')}"
    if not calibration.has_enough_photos(KEPT):
        return f"no threshold yet, with only {based}"
    if calibration.threshold(KEPT) is None:
        return f"no threshold, as too many of the {based} look like none of the classes"
    return f"a threshold that accepts {KEPT:.0%} of photos of known classes, based on {based}"


def export(report: ExportReport) -> None:
    """Prints what `export` wrote, and how it compares with the model."""
    rows = {
        "ONNX file": f"{printable(report.onnx)}, {in_bytes(report.onnx_bytes)}",
        "Classes": f"{len(report.class_names)}: {listed(report.class_names)}",
        "Verified": parity_found(report.parity),
        "Model digest": report.model_digest,
    }
    if report.comparison:
        rows["Compared"] = _comparison(report.comparison)
    print_rows("Exported", rows)


def _comparison(report: VariantReport) -> str:
    accuracy = ""
    if report.accuracy is not None and report.original_accuracy is not None:
        accuracy = f"accuracy {100 * report.original_accuracy:.1f} -> {100 * report.accuracy:.1f}%, "
    return (
        f"with the original ONNX file on {report.photos} photos: same class on "
        f"{percent_reached(report.agreement)} ({100 * report.min_agreement:.0f}% required), {accuracy}"
        f"{in_bytes(report.original_onnx_bytes)} -> {in_bytes(report.onnx_bytes)}, "
        f"{report.original_photo_ms:.1f} -> {report.photo_ms:.1f} ms per photo on this machine"
    )


def demo(report: DemoReport) -> None:
    """Prints the table that the README shows, and the footprint."""
    added = [", ".join(names) for names in report.increments]
    table = Table(title="Accuracy on test photos in %: shipped / added / all classes", title_justify="left")
    for heading in ("Method", "Shipped", *(f"+ {names}" for names in added)):
        table.add_column(heading, justify="left" if heading == "Method" else "right")
    for row in report.rows:
        steps = zip(row.old[1:], row.new[1:], row.all[1:], strict=True)
        cells = (" / ".join(f"{100 * (value or 0):.1f}" for value in step) for step in steps)
        table.add_row(row.method, f"{100 * row.old[0]:.1f}", *cells)
    out().print(table)
    rows = {
        "Bundle": " -> ".join(f"{size:,}" for size in report.bundle_bytes) + " bytes",
        "ONNX file": " -> ".join(f"{size:,}" for size in report.onnx_bytes) + " bytes",
        "Whole home": " -> ".join(f"{size:,}" for size in report.home_bytes) + " bytes",
        "Audit": "passed" if report.audit_passed else "FAILED",
        "File to load": printable(report.onnx),
        "Time": f"{report.seconds:.0f} s",
    }
    print_rows("Footprint before and after each increment", rows)

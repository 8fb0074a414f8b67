"""What the command line prints for people: tables on standard output, progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from .audit_reports import AuditReport, SimulationReport
from .custody_reports import KeyReport, SigningReport, VerificationReport
from .errors import LwmEdgeError
from .model_reports import (
    BaseReport,
    ChangeReport,
    DemoReport,
    ExportReport,
    InfoReport,
    LevelsReport,
    PredictionReport,
    RepairReport,
)
from .reports import (
    EvaluationReport,
    FootprintReport,
    IncrementReport,
    ParityReport,
    PlanReport,
    Progress,
    ProgressCallback,
)
from .trends import MEMORY_TOLERANCE, value_of

_PHASES = {
    "photos": "Reading photos",
    "plan": "Planning",
    "features": "Looking at photos",
    "train": "Training",
    "evaluate": "Evaluating",
    "stage": "Writing the bundle",
    "commit": "Exporting and committing",
    "simulate": "Simulating increments",
}
_LISTED = 10
_BARS, _SPARKS = " ▁▂▃▄▅▆▇█", 16


def _out() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _err() -> Console:
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def error(failure: LwmEdgeError) -> None:
    """Prints an error with all its problems."""
    _err().print(f"[bold red]Error:[/] {_safe(str(failure))}")


def note(text: str) -> None:
    """Prints a line on standard error."""
    _err().print(_safe(text))


def _safe(text: str) -> str:
    """Text in which neither rich's markup nor a file's name can do anything to the terminal."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return escape("".join(shown))


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """A bar on a terminal; elsewhere a plain line a phase and every tenth of the training."""
    console = _err()
    if not console.is_terminal:
        yield _plain_progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.fields[loss]}"), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, loss="")

        def show(progress: Progress) -> None:
            loss = f"loss {progress.loss:.3f}" if progress.loss is not None else ""
            bar.update(
                task,
                description=_PHASES[progress.phase],
                completed=progress.done,
                total=progress.total,
                loss=loss,
            )

        yield show


def _plain_progress(progress: Progress) -> None:
    tenth = max(1, progress.total // 10)
    if progress.loss is None:
        if progress.done in (0, progress.total) or progress.phase == "simulate":
            counted = f"{progress.done}/{progress.total} " if progress.phase == "simulate" else ""
            note(f"{_PHASES[progress.phase]} {counted}...")
    elif progress.done % tenth == 0 or progress.done == progress.total:
        note(f"{_PHASES[progress.phase]} {progress.done}/{progress.total}, loss {progress.loss:.3f}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _bytes(count: int) -> str:
    return f"{count:,} bytes"


def _rows(title: str, rows: dict[str, str]) -> None:
    console, width = _out(), max(map(len, rows))
    console.print(f"[bold]{title}")
    for name, value in rows.items():  # not a table: it would cut long paths off
        console.print(f"  {name:<{width}}  {_safe(value)}")


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _parity(parity: ParityReport) -> str:
    what = "photos" if parity.real_photos else "generated pictures"
    difference = f"difference {parity.largest_difference:.1e}, {parity.tolerance:.1e} allowed"
    return f"agrees with the network on {what} ({difference})"


def _growth(footprint: FootprintReport) -> dict[str, str]:
    bundle, onnx = footprint.bundle_bytes, footprint.onnx_bytes
    return {
        "Bundle": f"{_bytes(bundle)} ({bundle - footprint.bundle_bytes_before:+,})",
        "ONNX file": f"{_bytes(onnx)} ({onnx - footprint.onnx_bytes_before:+,})",
        "Peak memory": f"{footprint.peak_rss_bytes / 2**20:.0f} MiB of one process",
    }


def _training(report: IncrementReport) -> dict[str, str]:
    if report.training is None:
        return {}
    weights = f"beta {report.beta:g}, gamma {report.gamma:g}"
    return {"Training": f"{report.training.steps} steps of {report.training.step_ms:.0f} ms, {weights}"}


def plan(report: PlanReport) -> None:
    """What an increment will take."""
    mib = 2**20
    rows = {
        "Peak memory": f"{report.predicted_peak_rss_bytes / mib:.0f} MiB predicted, "
        f"{report.limit_bytes / mib:.0f} MiB allowed ({report.limit_source}), "
        f"{report.smallest_limit_bytes / mib:.0f} MiB would do",
        "Micro-batch": f"{report.micro_batch_size} images, {report.micro_batches_an_update} an update",
        "Recomputing": "trained blocks, to save memory" if report.recompute else "nothing",
        "Freed memory": "kept for the next step, which is faster"
        if report.keeps_freed_memory
        else "given back at once",
        "Interrupted": "it goes on where it was"
        if report.checkpoints
        else "it starts over: no room to save it",
        "Photo cache": f"{report.pixel_cache_bytes / mib:.0f} MiB",
        "Time": f"about {report.predicted_seconds:.0f} s of training",
        "Disk": f"{_bytes(report.disk_bytes)} free are needed meanwhile",
    }
    _rows("The plan; nothing was trained", rows)


def increment(report: IncrementReport) -> None:
    """The receipt."""
    held, drift = report.held_back, report.drift
    rows = {
        "New classes": _listed(report.new_classes),
        "Photos": f"{report.photos_trained} learnt from, {report.photos_held_back} held back",
        "Accuracy": f"{_percent(held.new_accuracy)} on held-back new photos, all classes competing",
        "Old classes": report.old_classes_note,
        "Drift": f"{_percent(drift.base_agreement)} of new photos rank the same old class first as before; "
        f"attention moved by {drift.attention_distance:.2f}",
        "Recipe": f"{report.recipe}: {report.recipe_reason}",
        **_training(report),
        **_growth(report.footprint),
        "Planned": f"{report.plan.predicted_peak_rss_bytes / 2**20:.0f} MiB, "
        f"{report.plan.predicted_seconds:.0f} s of training",
        "Verified": f"ONNX file {_parity(report.parity)}",
        "Load it from": str(report.onnx),
        "Model digest": report.model_digest,
    }
    _rows(f"Learnt {len(report.new_classes)} classes in {report.seconds:.0f} s", rows)
    for line in (*report.warnings, *report.skipped):
        note(f"Note: {line}")


def base(report: BaseReport) -> None:
    """What `build-base` made."""
    accuracy = report.held_back.accuracy if report.held_back else None
    rows = {
        "Bundle": f"{report.bundle}, {_bytes(report.bundle_bytes)}, for ever",
        "Network": report.architecture,
        "Classes": f"{len(report.class_names)} of at most {report.capacity}: {_listed(report.class_names)}",
        "Accuracy": f"{_percent(accuracy)} on held-back photos" if accuracy is not None else "not measured",
        "Attention maps": f"{report.attention_cells} cells",
        "Head": _levels(report.levels),
        "Verified": f"ONNX graph {_parity(report.parity)}",
        "Model digest": report.model_digest,
    }
    _rows(f"Base made in {report.seconds:.0f} s", rows)
    for line in report.warnings:
        note(f"Note: {line}")


def _levels(report: LevelsReport) -> str:
    tried = ", ".join(f"{g}x{g} {_percent(accuracy)}" for g, accuracy in report.accuracy.items())
    why = f" (told apart by the earlier ones alone: {tried})" if tried else ""
    return f"reads {report.inputs} values: {_reads(report.grid)}{why}"


def _reads(grid: int) -> str:
    return "the last feature maps" + (f", and earlier blocks on a grid of {grid}x{grid}" if grid else "")


def change(report: ChangeReport) -> None:
    """What `init` and `remove-class` left."""
    title = (
        f"Removed {report.removed_class}" if report.removed_class else f"Model home {report.home} is ready"
    )
    rows = {
        "Classes": f"{len(report.class_names)}: {_listed(report.class_names)}",
        **_growth(report.footprint),
        "Verified": f"ONNX file {_parity(report.parity)}",
        "Load it from": str(report.onnx),
        "Model digest": report.model_digest,
    }
    if report.trusted_key:
        rows["Trusts the key"] = report.trusted_key
    _rows(_safe(title), rows)


def repair(report: RepairReport) -> None:
    """What was repaired."""
    rows = {
        "Repaired": "; ".join(report.repaired) or "nothing: all files are as the bundle makes them",
        "Classes": f"{len(report.class_names)}: {_listed(report.class_names)}",
        "Load it from": str(report.onnx),
        "Model digest": report.model_digest,
    }
    _rows(f"Model home {_safe(str(report.home))}", rows)


def predictions(report: PredictionReport) -> None:
    """One line a photo."""
    for prediction in report.predictions:
        if prediction.error:
            note(f"{prediction.photo}: {prediction.error}")
            continue
        pairs = zip(prediction.class_names, prediction.probabilities, strict=True)
        _out().print(_safe(f"{prediction.photo}: " + ", ".join(f"{name} {_percent(p)}" for name, p in pairs)))


def evaluation(report: EvaluationReport) -> None:
    """Accuracy and confusions."""
    rows = {
        "Shipped classes": _percent(report.old_accuracy),
        "Added classes": _percent(report.new_accuracy),
        "All classes": _percent(report.accuracy),
    }
    _rows(f"Accuracy on {report.photos} photos, mean over classes, all classes competing", rows)
    if report.confusions:
        _rows(
            "Most often confused",
            {f"{_safe(c.actual)} taken for {_safe(c.predicted)}": str(c.photos) for c in report.confusions},
        )
    for line in report.skipped:
        note(f"Note: {line}")


def info(report: InfoReport) -> None:
    """What a home or bundle holds."""
    added = report.class_names[report.shipped_classes :]
    size = report.preprocessing.image_size
    rows = {
        "Shipped classes": _listed(report.class_names[: report.shipped_classes]),
        "Added classes": _listed(added) if added else "none",
        "Capacity": f"{report.capacity} classes, {report.capacity - len(report.class_names)} free",
        "Network": f"{report.architecture}, {size}x{size} pixels, {report.activation} outputs",
        "Head": f"reads {_reads(report.levels.grid if report.levels else 0)}",
        "Bundle": f"{report.bundle}, {_bytes(report.bundle_bytes)}",
        "Changes": f"{report.increment_count} since it was shipped, the latest training by {report.recipe}",
        "Model digest": report.model_digest,
    }
    if report.onnx:
        rows["ONNX file"] = str(report.onnx)
    _rows(_safe(str(report.home or report.bundle)), rows)


def export(report: ExportReport) -> None:
    """Where the ONNX file lies."""
    rows = {
        "ONNX file": f"{report.onnx}, {_bytes(report.onnx_bytes)}",
        "Classes": f"{len(report.class_names)}: {_listed(report.class_names)}",
        "Verified": _parity(report.parity),
        "Model digest": report.model_digest,
    }
    _rows("Exported", rows)


def audit(report: AuditReport) -> None:
    """The account and the verdict."""
    table = Table(title=f"Every byte of {_safe(str(report.home))}", title_justify="left", box=None)
    table.add_column("Owner")
    table.add_column("Bytes", justify="right")
    for owner, count in report.bytes_by_owner().items():
        table.add_row(owner, f"{count:,}")
    table.add_row("[bold]accounted for", f"[bold]{report.accounted_bytes:,}")
    table.add_row("[bold]on disk", f"[bold]{report.total_bytes:,}")
    _out().print(table)
    rows = {"Bundle": f"{_bytes(report.bundle_bytes)}, {_bytes(report.bundle_bytes_shipped)} when shipped"}
    if growth := report.onnx_growth:
        per_class = f", {growth.bytes_per_class:,.0f} a class" if growth.bytes_per_class else ""
        rows["ONNX file"] = f"grew by {_bytes(growth.bytes)} for {growth.classes} classes{per_class}"
        if growth.explained:
            parts = (
                f"head {growth.head_bytes:,}, names {growth.names_bytes:,}, framing {growth.framing_bytes:,}"
            )
            rows["  explained"] = f"to the byte: {parts}"
    chain = f"hash chain holds, head {report.ledger_head}" if report.ledger_head else "without hash chain"
    rows["Ledger"] = f"{report.ledger_entries} entries, {chain}"
    rows["Verdict"] = "passed: nothing else is there" if report.passed else "FAILED"
    _rows("", rows)
    for problem in report.problems:
        note(f"Problem: {problem}")


def simulation(report: SimulationReport) -> None:
    """Every trend with a line of its values, and the verdict."""
    each = "each in a process of its own" if report.isolated else "all in one process"
    _out().print(
        f"[bold]{report.increments} simulated increments[/] of {report.classes_per_increment} classes by "
        f"{report.recipe}, {each}; {report.photos_per_class} generated photos a class"
    )
    table = Table(box=None)
    for heading in ("Bytes", "", "2nd", "Last", "A class", "Explained"):
        table.add_column(heading, justify="left" if heading in ("Bytes", "") else "right")
    for trend in report.trends:
        values = [value_of(trend.figure, step) for step in report.steps]
        numbers = (trend.second, trend.last, trend.slope_bytes_per_class, trend.explained_bytes_per_class)
        table.add_row(escape(trend.figure), _sparkline(values), *(f"{number:,.0f}" for number in numbers))
    _out().print(table)
    rows = {
        "First increment": "warms up, and is left out",
        "Memory": f"passes if neither the fitted line nor the last increment rises by more than "
        f"{MEMORY_TOLERANCE:.0%} of the 2nd's peak",
        "Verdict": "passed: storage and memory stay constant" if report.passed else "FAILED",
    }
    if report.plot:
        rows["Plot"] = str(report.plot)
    _rows(f"Took {report.seconds:.0f} s", rows)
    for problem in report.problems:
        note(f"Problem: {problem}")


def _sparkline(values: list[int]) -> str:
    """The values as bars, from 0 to the largest."""
    shown = values[:: -(-len(values) // _SPARKS)]
    top = max(*values, 1)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in shown)


def demo(report: DemoReport) -> None:
    """The table that the README shows."""
    added = [", ".join(names) for names in report.increments]
    table = Table(title="Accuracy on test photos in %: shipped / added / all classes", title_justify="left")
    for heading in ("Method", "Shipped", *(f"+ {names}" for names in added)):
        table.add_column(heading, justify="left" if heading == "Method" else "right")
    for row in report.rows:
        steps = zip(row.old[1:], row.new[1:], row.all[1:], strict=True)
        cells = (" / ".join(f"{100 * (value or 0):.1f}" for value in step) for step in steps)
        table.add_row(row.method, f"{100 * row.old[0]:.1f}", *cells)
    _out().print(table)
    rows = {
        "Bundle": " -> ".join(f"{size:,}" for size in report.bundle_bytes) + " bytes",
        "ONNX file": " -> ".join(f"{size:,}" for size in report.onnx_bytes) + " bytes",
        "Whole home": " -> ".join(f"{size:,}" for size in report.home_bytes) + " bytes",
        "Audit": "passed" if report.audit_passed else "FAILED",
        "Load it from": str(report.onnx),
        "Time": f"{report.seconds:.0f} s",
    }
    _rows("Footprint before and after each increment", rows)


def key(report: KeyReport) -> None:
    """Where the key pair lies; never the secret."""
    rows = {
        "Private key": f"{report.private_key_file}, for its owner alone: who has it can sign anything",
        "Public key": f"{report.public_key_file}, to give away: {report.key}",
    }
    _rows("Key pair made", rows)


def signing(report: SigningReport) -> None:
    """What `sign` signed."""
    rows = {
        "Bundle": f"{report.bundle}, {_bytes(report.bundle_bytes)} as before",
        "Model digest": report.model_digest,
        "Signed with": report.key,
    }
    _rows("Base signed", rows)


def verification(report: VerificationReport) -> None:
    """The verdict, and what does and does not follow from it."""
    record = f"{report.links_recorded} in the record, {report.links_signed} of them signed"
    key_source = f", from {report.trusted_key_file}" if report.trusted_key_file else ""
    rows = {
        "Verdict": "passed" if report.passed else "FAILED: nothing is proven",
        "Trusted key": f"{report.trusted_key or 'none'}{key_source}",
        "Shipped base": report.base_digest or "not recorded",
        "Model digest": report.model_digest,
        "Changes": f"{report.changes} since it was shipped, {record}",
    }
    _rows(escape(str(report.home or report.bundle)), rows)
    for title, lines in (("Proven", report.proven), ("Not proven", report.not_proven)):
        _out().print(f"[bold]{title}")
        for line in lines or ("nothing",):
            _out().print(escape(f"  - {line}"))
    for problem in report.problems:
        note(f"Problem: {problem}")

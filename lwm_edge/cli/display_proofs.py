"""Prints the results of `audit`, `simulate`, `keygen`, `sign` and `verify`: sizes, growth, what is proven."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from ..advice import home_option
from ..records import printable
from ..wording import counted
from .terminal import in_bytes, note, out, print_rows, safe

if TYPE_CHECKING:
    from .. import AuditReport, KeyReport, SigningReport, SimulationReport, VerificationReport
    from ..proofs.reports import OnnxGrowth

_BARS, _MOST_BARS = " ▁▂▃▄▅▆▇█", 16
_MEMORY = {"peak_rss_bytes": "Memory", "peak_cuda_bytes": "GPU memory"}


def audit(report: AuditReport, details: bool = False) -> None:
    """Prints the size of the home, its growth, the verdict, and what to do if the audit failed.

    Args:
        report: Report of `audit`.
        details: Whether to print the bytes of each part, the parts of the growth, and the ledger too.
    """
    if details:
        _print_parts(report)
    rows = {
        "Counted": _counted_bytes(report, details),
        "Model file": _length_of_the_bundle(report),
        **_growth(report.onnx_growth, details),
    }
    if report.passed:
        entries = counted(report.ledger_entries, "entry", "entries")
        rows["Photos in memory"] = f"none left, according to the ledger's latest {entries}"
    if details:
        rows["Ledger"] = f"the head of its hash chain is {report.ledger_head or 'missing: it has no chain'}"
    if report.not_audited:
        rows["Not audited"] = f"{', '.join(report.not_audited)}: attributes that the system sets"
    rows["Verdict"] = "passed: nothing is unexplained" if report.passed else "FAILED: see the problems below"
    if not report.passed:
        rows["What next"] = "\n".join(_next_steps(report.home))
    print_rows(f"Audit of {printable(report.home)}", rows)
    for problem in report.problems:
        note(f"Problem: {problem}")


def _print_parts(report: AuditReport) -> None:
    table = Table(title="Every byte of the home, by part", title_justify="left", box=None)
    table.add_column("Part")
    table.add_column("Bytes", justify="right")
    for part, count in report.bytes_by_owner().items():
        table.add_row(part, f"{count:,}")
    table.add_row("[bold]accounted for", f"[bold]{report.accounted_bytes:,}")
    table.add_row("[bold]on disk", f"[bold]{report.total_bytes:,}")
    out().print(table)


def _counted_bytes(report: AuditReport, details: bool) -> str:
    unexplained = report.bytes_by_owner().get("unexplained", 0)
    unexplained += abs(report.total_bytes - report.accounted_bytes)
    if unexplained:
        return f"{in_bytes(report.total_bytes)}, of which {unexplained:,} are unexplained"
    hint = "" if details else " (--details lists the parts)"
    return f"{in_bytes(report.total_bytes)}, each in a known part of the home{hint}"


def _length_of_the_bundle(report: AuditReport) -> str:
    shipped = report.bundle_bytes_shipped
    if report.bundle_bytes == shipped:
        return f"model.lwm is {in_bytes(shipped)} long, as it was when the home was made"
    return f"model.lwm is {in_bytes(report.bundle_bytes)} long, but was {shipped:,} when the home was made"


def _growth(growth: OnnxGrowth | None, details: bool) -> dict[str, str]:
    """Says by how much the ONNX file grew, and whether its classes account for that."""
    if growth is None:
        return {}
    name = "classifier.onnx"
    if not growth.bytes and not growth.classes:
        return {"ONNX file": f"{name} has not grown since the home was made"}
    grew = f"{name} {'grew' if growth.bytes >= 0 else 'shrank'} by {in_bytes(abs(growth.bytes))}"
    fits = {
        True: "exactly as its classes require",
        False: "which is not what its classes require",
        None: "which cannot be checked to the byte, as a shipped class was removed",
    }
    rows = {"ONNX file": f"{grew}, {fits[growth.explained]}; it has {_class_change(growth.classes)}"}
    if details and growth.explained:
        rows["  made up of"] = (
            f"{growth.head_bytes:,} bytes for rows in the last layer and the score for unknown objects, "
            f"{growth.names_bytes:,} for names, {growth.framing_bytes:,} because the format "
            "needs more bytes to write larger numbers"
        )
    return rows


def _class_change(classes: int) -> str:
    if not classes:
        return "as many classes as when the home was made"
    more = "more" if classes > 0 else "fewer"
    return f"{counted(abs(classes), f'{more} class', f'{more} classes')} than when the home was made"


def _next_steps(home: Path) -> list[str]:
    where = home_option(home)
    return [
        "move out of the home any file that lwm-edge did not make",
        f"rebuild files that do not match the model: lwm-edge repair {where}",
        f"if model.lwm itself is damaged, start over: lwm-edge init BASE.lwm --replace {where}",
    ]


def simulation(report: SimulationReport, details: bool = False) -> None:
    """Prints whether files or memory grew, the verdict, and what to do if the simulation failed.

    Args:
        report: Report of `simulate`.
        details: Whether to print every figure too, each with a small chart of its values.
    """
    from ..proofs.trends import MEMORY_TOLERANCE  # not at the top, as --help would load it

    classes = counted(report.classes_per_increment, "class", "classes")
    each = "each in a separate process" if report.isolated else "all in one process"
    out().print(
        f"[bold]{report.increments} simulated increments[/] of {classes} with the "
        f"recipe {report.recipe}, {each}; {report.photos_per_class} generated photos per class"
    )
    if details:
        _print_trends(report)
    memory_figures = type(report.steps[0].memory).model_fields
    files_passed = all(trend.passed for trend in report.trends if trend.figure not in memory_figures)
    rows = {
        "Files": "only classifier.onnx and labels.txt grew, by exactly what new classes need"
        if files_passed
        else "some have the wrong length: see the problems below",
        **{
            _MEMORY[trend.figure]: f"{trend.second / 2**20:.0f} MiB at most in the second increment, "
            f"{trend.last / 2**20:.0f} MiB in the last ({MEMORY_TOLERANCE:.0%} more is allowed; the first "
            "increment warms up, and does not count)"
            for trend in report.trends
            if trend.figure in _MEMORY
        },
        "Verdict": "passed: storage and memory stay constant"
        if report.passed
        else "FAILED: see the problems below",
    }
    if not report.passed:
        rows["What next"] = (
            "close other programs and try again; if that fails too, send your vendor the output of --json"
        )
    if report.plot:
        rows["Plot"] = printable(report.plot)
    print_rows(f"Took {report.seconds:.0f} s", rows)
    for problem in report.problems:
        note(f"Problem: {problem}")


def _print_trends(report: SimulationReport) -> None:
    from ..proofs.trends import value_of

    table = Table(box=None)
    for heading in ("Bytes", "", "2nd", "Last", "Per class", "Explained"):
        table.add_column(heading, justify="left" if heading in ("Bytes", "") else "right")
    for trend in report.trends:
        values = [value_of(trend.figure, step) for step in report.steps]
        numbers = (trend.second, trend.last, trend.slope_bytes_per_class, trend.explained_bytes_per_class)
        table.add_row(safe(trend.figure), _sparkline(values), *(f"{number:,.0f}" for number in numbers))
    out().print(table)


def _sparkline(values: list[int]) -> str:
    """Draws up to 16 of the values, evenly spaced, as bars on a scale from 0 to the largest."""
    shown = values[:: -(-len(values) // _MOST_BARS)]
    top = max(*values, 1)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in shown)


def key(report: KeyReport) -> None:
    """Prints where the key pair is, never the secret."""
    rows = {
        "Private key": f"{printable(report.private_key_file)}; "
        "keep it secret: whoever has it can sign in your name",
        "Public key": f"{printable(report.public_key_file)}, for others to verify with: {report.key}",
    }
    print_rows("Key pair made", rows)


def signing(report: SigningReport) -> None:
    """Prints what `sign` signed."""
    rows = {
        "Bundle": f"{printable(report.bundle)}, {in_bytes(report.bundle_bytes)}, as before",
        "Model digest": report.model_digest,
        "Signed with": report.key,
    }
    print_rows("Base signed", rows)


def verification(report: VerificationReport) -> None:
    """Prints the verdict, and lists what is proven and what is not."""
    record = f"{report.links_recorded} in the record, {report.links_signed} of them signed"
    key_source = f", from {printable(report.trusted_key_file)}" if report.trusted_key_file else ""
    rows = {
        "Verdict": "passed" if report.passed else "FAILED: nothing is proven",
        "Trusted key": f"{report.trusted_key or 'none'}{key_source}",
        "Shipped base": report.base_digest or "not recorded",
        "Model digest": report.model_digest,
        "Changes": f"{report.changes} since it was shipped, {record}",
    }
    print_rows(printable(report.home or report.bundle), rows)
    for title, lines in (("Proven", report.proven), ("Not proven", report.not_proven)):
        out().print(f"[bold]{title}")
        for line in lines or ("nothing",):
            out().print(safe(f"  - {line}"))
    for problem in report.problems:
        note(f"Problem: {problem}")

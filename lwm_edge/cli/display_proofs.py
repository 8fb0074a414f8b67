"""Prints the results of `audit`, `keygen`, `sign` and `verify`: the account, the trends, what is proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from .terminal import counted, in_bytes, note, out, print_rows, safe

if TYPE_CHECKING:
    from .. import AuditReport, KeyReport, SigningReport, SimulationReport, VerificationReport

_BARS, _SPARKS = " ▁▂▃▄▅▆▇█", 16


def audit(report: AuditReport) -> None:
    """Prints the account and the verdict."""
    table = Table(title=f"Every byte of {safe(str(report.home))}", title_justify="left", box=None)
    table.add_column("Owner")
    table.add_column("Bytes", justify="right")
    for owner, count in report.bytes_by_owner().items():
        table.add_row(owner, f"{count:,}")
    table.add_row("[bold]accounted for", f"[bold]{report.accounted_bytes:,}")
    table.add_row("[bold]on disk", f"[bold]{report.total_bytes:,}")
    out().print(table)
    rows = {
        "Bundle": f"{in_bytes(report.bundle_bytes)}, {in_bytes(report.bundle_bytes_shipped)} when shipped"
    }
    if growth := report.onnx_growth:
        per_class = f", {growth.bytes_per_class:,.0f} per class" if growth.bytes_per_class else ""
        classes = counted(growth.classes, "class", "classes")
        rows["ONNX file"] = f"grew by {in_bytes(growth.bytes)} for {classes}{per_class}"
        if growth.explained:
            parts = (
                f"head {growth.head_bytes:,}, names {growth.names_bytes:,}, framing {growth.framing_bytes:,}"
            )
            rows["  explained"] = f"to the byte: {parts}"
    chain = f"hash chain holds, head {report.ledger_head}" if report.ledger_head else "without a hash chain"
    rows["Ledger"] = f"{report.ledger_entries} entries, {chain}"
    if report.not_audited:
        rows["Not audited"] = f"{', '.join(report.not_audited)}: attributes that the system sets"
    rows["Verdict"] = "passed: nothing else is there" if report.passed else "FAILED"
    print_rows("", rows)
    for problem in report.problems:
        note(f"Problem: {problem}")


def simulation(report: SimulationReport) -> None:
    """Prints every trend with a line of its values, and the verdict."""
    from ..proofs.trends import MEMORY_TOLERANCE, value_of  # the reports are loaded by now

    classes = counted(report.classes_per_increment, "class", "classes")
    each = "each in a process of its own" if report.isolated else "all in one process"
    out().print(
        f"[bold]{report.increments} simulated increments[/] of {classes} by "
        f"{report.recipe}, {each}; {report.photos_per_class} generated photos per class"
    )
    table = Table(box=None)
    for heading in ("Bytes", "", "2nd", "Last", "Per class", "Explained"):
        table.add_column(heading, justify="left" if heading in ("Bytes", "") else "right")
    for trend in report.trends:
        values = [value_of(trend.figure, step) for step in report.steps]
        numbers = (trend.second, trend.last, trend.slope_bytes_per_class, trend.explained_bytes_per_class)
        table.add_row(safe(trend.figure), _sparkline(values), *(f"{number:,.0f}" for number in numbers))
    out().print(table)
    rows = {
        "First increment": "warms up, and is left out",
        "Memory": f"passes if neither the fitted line nor the last increment rises by more than "
        f"{MEMORY_TOLERANCE:.0%} of the 2nd's peak",
        "Verdict": "passed: storage and memory stay constant" if report.passed else "FAILED",
    }
    if report.plot:
        rows["Plot"] = str(report.plot)
    print_rows(f"Took {report.seconds:.0f} s", rows)
    for problem in report.problems:
        note(f"Problem: {problem}")


def _sparkline(values: list[int]) -> str:
    """Draws the values as bars, from 0 to the largest."""
    shown = values[:: -(-len(values) // _SPARKS)]
    top = max(*values, 1)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in shown)


def key(report: KeyReport) -> None:
    """Prints where the key pair is, never the secret."""
    rows = {
        "Private key": f"{report.private_key_file}, for its owner alone: whoever has it can sign anything",
        "Public key": f"{report.public_key_file}, to share: {report.key}",
    }
    print_rows("Key pair made", rows)


def signing(report: SigningReport) -> None:
    """Prints what `sign` signed."""
    rows = {
        "Bundle": f"{report.bundle}, {in_bytes(report.bundle_bytes)} as before",
        "Model digest": report.model_digest,
        "Signed with": report.key,
    }
    print_rows("Base signed", rows)


def verification(report: VerificationReport) -> None:
    """Prints the verdict, and what does and does not follow from it."""
    record = f"{report.links_recorded} in the record, {report.links_signed} of them signed"
    key_source = f", from {report.trusted_key_file}" if report.trusted_key_file else ""
    rows = {
        "Verdict": "passed" if report.passed else "FAILED: nothing is proven",
        "Trusted key": f"{report.trusted_key or 'none'}{key_source}",
        "Shipped base": report.base_digest or "not recorded",
        "Model digest": report.model_digest,
        "Changes": f"{report.changes} since it was shipped, {record}",
    }
    print_rows(str(report.home or report.bundle), rows)
    for title, lines in (("Proven", report.proven), ("Not proven", report.not_proven)):
        out().print(f"[bold]{title}")
        for line in lines or ("nothing",):
            out().print(safe(f"  - {line}"))
    for problem in report.problems:
        note(f"Problem: {problem}")

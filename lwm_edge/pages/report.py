"""Writes a page about a home's model: what it knows, how accurate it is, what it costs, and its origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .. import outputs
from ..home.home import Home, open_home
from ..home.readers import PastChange, evaluate
from ..increment.reports import IncrementReport
from ..model.ledger import LEDGER_LENGTH
from ..records import (
    AnyNamePath,
    AnyPath,
    ProgressCallback,
    Report,
    StepReporter,
    ignore_progress,
    printable,
    report_nothing,
)
from .charts import accuracy_chart, memory_chart, require_matplotlib, storage_chart
from .facts import FACT_STEPS, ClassFact, Facts, gather_facts, mean_share
from .template import fill, mib, require_jinja2

_TEMPLATE = Path(__file__).with_name("report.html")
PAGE_STEPS = FACT_STEPS + 1
_FIRST_CLASSES = 24
_DEEDS_IN_WORDS = {
    "add-classes": "learnt",
    "add-photos": "learnt from more photos of",
    "remove-class": "removed",
    "rename-class": "renamed",
    "merge-classes": "merged",
    "calibrate": "calibrated with photos of",
    "undo": "undid the previous change",
}


class PageReport(Report):
    """Reports which page was written.

    Attributes:
        page: Path of the page.
        page_bytes: Length of the page.
        embedded_photos: Number of photos that are in the page.
        audit_passed: Whether the page says that the audit passed.
        custody_passed: Whether the page says that the model's origin is proven.
    """

    page: AnyNamePath
    page_bytes: int
    embedded_photos: int
    audit_passed: bool
    custody_passed: bool


def write_report(
    home: Home | AnyPath,
    output: AnyPath,
    *,
    photos: AnyPath | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> PageReport:
    """Writes one self-contained HTML page about a home; no photo is in it.

    Args:
        home: Model home, or the path of its folder.
        output: Path of the page; an existing file is replaced.
        photos: Path of a folder with class folders of labelled photos, on which the model is measured for the
            page; None leaves the measurement out.
        on_progress: Function that is called before each photo, and before each step of making the page; any
            exception that it raises ends the call.

    Raises:
        ConfigError: The page cannot be written there, or jinja2 or matplotlib is not installed.
        HomeError: There is no home, or writing the page failed.
        BundleError: The home's bundle is damaged.
        PhotosError: The photos cannot be used.
        ExportError: There are photos, but the home's ONNX file cannot be used.
        ResourceError: Memory or disk space ran out.
    """
    home, output = open_home(home), Path(output)
    check_page(output)
    evaluation = evaluate(home, photos, on_progress=on_progress) if photos is not None else None
    report = StepReporter("page", PAGE_STEPS, on_progress)
    return render(home, output, gather_facts(home, evaluation, report), report=report)


def check_page(output: Path) -> None:
    """Checks, before the work begins, that the page can and may be written to its path.

    Raises:
        ConfigError: The page would be in a model home, cannot be written, or needs a library that is missing.
    """
    outputs.check_output(output)
    require_matplotlib()
    require_jinja2()


def render(
    home: Home,
    output: Path,
    facts: Facts,
    moment: Any = None,
    *,
    report: Callable[[], None] = report_nothing,
) -> PageReport:
    """Fills the template and writes the page.

    Args:
        home: Model home.
        output: Path of the page.
        facts: Facts about the home.
        moment: Facts that are known only at the moment of learning (a `moment.Moment`); None at other times.
        report: Function that is called before the charts are drawn.
    """
    report()
    page = fill(_TEMPLATE, {**_content(home, facts), "moment": moment})
    outputs.write_output(output, page)
    return PageReport(
        page=output,
        page_bytes=len(page),
        embedded_photos=moment.embedded if moment else 0,
        audit_passed=facts.audit.passed,
        custody_passed=facts.custody.passed,
    )


def _content(home: Home, facts: Facts) -> dict[str, Any]:
    from importlib import metadata  # not earlier, as it is slow to load

    least_sure = sorted(facts.classes, key=_least_sure_first)
    measured = [fact for fact in facts.classes if fact.total]
    receipt = facts.receipt
    return {
        "title": f"What {printable(Path(home.path.name))} knows",
        "made_at": f"{datetime.now(timezone.utc):%d %B %Y, %H:%M} UTC",
        "version": metadata.version("lwm-edge"),
        "facts": facts,
        "measured": measured,
        "mean": mean_share(facts.classes),
        "first_classes": least_sure[:_FIRST_CLASSES],
        "more_classes": least_sure[_FIRST_CLASSES:],
        "charts": {
            "accuracy": accuracy_chart(measured) if len(measured) > 1 else "",
            "storage": storage_chart(facts.ledger) if facts.ledger else "",
            "memory": memory_chart(facts.ledger) if facts.ledger else "",
        },
        "ledger_length": LEDGER_LENGTH,
        "maximum": facts.info.ledger.maximum,
        "owners": facts.audit.bytes_by_owner(),
        "estimate": receipt.drift.shipped if receipt else None,
        "plan": _plan(receipt) if receipt else [],
        "history": [_past(past) for past in reversed(facts.info.history)],
    }


def _least_sure_first(fact: ClassFact) -> tuple[bool, float, str]:
    """Returns a key that sorts measured classes first, starting with the class that may be the worst."""
    return not fact.total, fact.interval[0], fact.name


def _plan(receipt: IncrementReport) -> list[Mapping[str, Any]]:
    plan, memory = receipt.plan, receipt.footprint.memory.peak_rss_bytes
    return [
        _compared("Memory", plan.predicted_peak_rss_bytes, memory, mib),
        _compared("Time", plan.predicted_seconds, receipt.seconds, lambda seconds: f"{seconds:.0f} s"),
    ]


def _compared(what: str, planned: float, measured: float, written: Any) -> Mapping[str, Any]:
    longest = max(planned, measured) or 1
    return {
        "what": what,
        "planned": written(planned),
        "measured": written(measured),
        "planned_width": round(100 * planned / longest, 1),
        "measured_width": round(100 * measured / longest, 1),
    }


def _past(past: PastChange) -> Mapping[str, Any]:
    more = f" and {past.more_classes} more" if past.more_classes else ""
    link = " to " if past.change == "rename-class" else " into " if past.change == "merge-classes" else ", "
    return {
        "number": past.increment,
        "did": _DEEDS_IN_WORDS.get(past.change or "", "the record does not say what was done"),
        "classes": link.join(past.class_names) + more,
        "when": f"{past.time:%Y-%m-%d %H:%M} UTC" if past.time else "",
    }

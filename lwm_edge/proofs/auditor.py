"""Audits a home: accounts for every byte, and says what is unexplained.

`audit` looks at the files that are there now (`audited_bytes`), at the growth of the ONNX file
(`onnx_growth`) and at the ledger of past changes (`model.ledger`). `simulation` runs increments to see
whether anything grows. The size of folders is up to the file system, so it is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import inspection
from ..errors import ExportError
from ..home.home import Generation, Home, open_home
from ..model.bundle import Bundle, open_bundle
from ..model.ledger import LedgerEntry
from ..records import AnyPath
from ..wording import counted
from .audited_bytes import attributes_of_the_system, bundle_items, file_sizes, layout_problems, other_items
from .onnx_growth import expected_growth
from .reports import AuditReport, OnnxGrowth


def audit(home: Home | AnyPath) -> AuditReport:
    """Accounts for every byte of a home.

    Args:
        home: Model home, or the path of its folder.

    Returns:
        The audit's report; if something is unexplained, `passed` is False and `problems` says what.

    Raises:
        HomeError: There is no home.
        BundleError: The home's bundle is damaged.
        ResourceError: Memory ran out.
    """
    home = open_home(home)
    return home.read(lambda generation: _audit(home, generation))


def _audit(home: Home, generation: Generation) -> AuditReport:
    bundle = open_bundle(generation.bundle)
    problems: list[str] = []
    items = [*bundle_items(bundle, problems), *other_items(home, generation, bundle, problems)]
    problems += layout_problems(home, generation, bundle)
    total, accounted = sum(file_sizes(home.path).values()), sum(item.bytes for item in items)
    if total != accounted:
        problems.append(f"{total} bytes are on disk, but {accounted} are accounted for")
    bundle_bytes = bundle.path.stat().st_size
    ledger = bundle.manifest.ledger
    shipped_bytes = ledger.first.bundle_bytes if ledger.first else bundle.manifest.bundle_bytes
    if bundle_bytes != shipped_bytes:
        problems.append(f"the bundle is {bundle_bytes} bytes long, but was {shipped_bytes} when shipped")
    growth = _onnx_growth(bundle, generation)
    if growth and growth.explained is False:
        problems.append(
            f"{generation.onnx.name} grew by {growth.bytes} bytes, which its classes do not explain"
        )
    problems += _ledger_problems(bundle, generation)
    return AuditReport(
        home=home.path,
        passed=not problems,
        problems=tuple(problems),
        items=tuple(items),
        total_bytes=total,
        accounted_bytes=accounted,
        bundle_bytes=bundle_bytes,
        bundle_bytes_shipped=shipped_bytes,
        onnx_growth=growth,
        ledger_entries=len(ledger.latest),
        ledger_head=ledger.head,
        not_audited=attributes_of_the_system(home.path),
    )


def _onnx_growth(bundle: Bundle, generation: Generation) -> OnnxGrowth | None:
    manifest = bundle.manifest
    first = manifest.ledger.first
    if first is None or not generation.onnx.is_file():
        return None
    names, grown = manifest.class_names, generation.onnx_bytes() - first.onnx_bytes
    classes = len(names) - first.classes
    per_class = grown / classes if classes > 0 else None
    report = OnnxGrowth(classes=classes, bytes=grown, bytes_per_class=per_class)
    if manifest.shipped_classes < first.classes:  # a shipped class was removed, and its name is not kept
        return report
    features = bundle.arrays("head.weight")["head.weight"].shape[1]
    content = inspection.read_or_why_not(generation.onnx)
    if isinstance(content, str):
        return None  # `missing_or_changed` reports that it cannot be read
    try:
        parts = expected_growth(manifest.vendor_names, names, features, content)
    except ExportError:
        return report.model_copy(update={"explained": False})
    return report.model_copy(
        update={
            "head_bytes": parts.head,
            "names_bytes": parts.names,
            "framing_bytes": parts.framing,
            "explained": sum(parts) == grown,
        }
    )


def _ledger_problems(bundle: Bundle, generation: Generation) -> Iterator[str]:
    manifest, last = bundle.manifest, bundle.manifest.ledger.last
    yield from manifest.ledger.problems()
    if last is None:
        yield "the ledger is empty"
        return
    if (last.increment, last.classes) != (manifest.increment_count, len(manifest.class_names)):
        yield "the ledger's last entry is not about the latest change"
    if generation.onnx.is_file() and last.onnx_bytes != generation.onnx_bytes():
        yield f"{generation.onnx.name} is not as long as the ledger says"
    for entry in manifest.ledger.latest:
        yield from memory_problems(entry)


def memory_problems(entry: LedgerEntry) -> Iterator[str]:
    """Yields a problem if an increment left photos in memory, or had more than one teacher there."""
    if entry.teacher_networks is not None and entry.teacher_networks > 1:
        yield f"increment {entry.increment} had {entry.teacher_networks} teacher networks in memory, not 1"
    if entry.images_alive:
        yield (
            f"increment {entry.increment} left {counted(entry.images_alive, 'photo', 'photos')} in memory, "
            "or the app that made the change held photos of its own meanwhile"
        )

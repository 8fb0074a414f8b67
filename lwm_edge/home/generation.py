"""Makes and checks one generation of a home: bundle, ONNX file, labels and receipt, always together.

If the vendor permits undo, a generation also has `previous.lwm`: the bundle from before the latest change or,
if there is nothing to return to, a copy of the current bundle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .. import inspection, storage
from ..custody.chain import continues_record, record_change
from ..errors import BundleError, ExportError, HomeError
from ..freed_memory import give_freed_memory_back
from ..memory import peak_rss_bytes
from ..model.bundle import Bundle, open_bundle, tensors_digest, write_bundle
from ..model.custody_record import Deed
from ..model.ledger import LedgerEntry
from ..model.manifest import Manifest
from ..model.onnx.graph import fill_graph
from ..model.onnx.parity import ParityProbe, verified_file
from ..model.onnx.reports import ParityReport
from ..model.tensors import Arrays
from ..records import Report
from .home import Generation, Home
from .reports import FootprintReport, MemoryReport

_RECEIPT_FIXED_BYTES, _RECEIPT_BYTES_PER_CLASS = 32 * 1024, 512


@dataclass(frozen=True)
class Candidate:
    """Holds a changed model that is verified, but is not yet the home's current one.

    Attributes:
        arrays: Tensors of the bundle.
        manifest: Manifest of the bundle, with digest and ledger.
        previous: Path of the bundle that undo would return to; None if there is nothing to return to.
        onnx_file: Content of classifier.onnx.
        parity: Comparison of the ONNX file with the network.
        footprint: Footprint before and after the change.
    """

    arrays: Arrays
    manifest: Manifest
    previous: Path | None
    onnx_file: bytes
    parity: ParityReport
    footprint: FootprintReport


def prepare(
    arrays: Arrays,
    manifest: Manifest,
    parent: Bundle,
    probe: ParityProbe,
    memory: MemoryReport,
    *,
    started: float,
    onnx_bytes_before: int,
    device_key: Ed25519PrivateKey | None = None,
    deed: Deed | None = None,
    previous: Path | None = None,
) -> Candidate:
    """Exports the changed model and compares the ONNX file with the network.

    Args:
        arrays: Tensors of the bundle, including `onnx_graph`.
        manifest: Manifest of the changed model; its digest and ledger are filled in here.
        parent: Bundle of the model before the change.
        probe: Images, and the logits that the changed network computes from them.
        memory: Memory use of the change.
        started: Value of time.monotonic() when the change started.
        onnx_bytes_before: Length of the ONNX file before the change; 0 if there was none, in
            which case no growth is reported.
        device_key: Key that signs the change's link in the chain of custody; None leaves it unsigned.
        deed: Description of the change.
        previous: Path of the bundle that undo would return to; None if there is nothing to return to.

    Raises:
        ExportError: The ONNX file cannot be made, or differs from the network (ParityError). Nothing has been
            written.
    """
    manifest = manifest.model_copy(update={"tensors_digest": tensors_digest(arrays)})
    manifest = record_change(manifest, parent.manifest, device_key, deed)
    onnx_file, parity = verified_file(arrays, manifest, probe)
    give_freed_memory_back()  # writing the files needs memory too
    entry = LedgerEntry(
        increment=manifest.increment_count,
        classes=len(manifest.class_names),
        bundle_bytes=manifest.bundle_bytes,
        onnx_bytes=len(onnx_file),
        peak_rss_bytes=memory.peak_rss_bytes,
        seconds=round(time.monotonic() - started, 3),
        labels_bytes=len(labels_text(manifest)),
        peak_anonymous_bytes=memory.peak_anonymous_bytes,
        peak_mapped_bytes=memory.peak_mapped_bytes,
        peak_cuda_bytes=memory.peak_cuda_bytes,
        teacher_networks=memory.teacher_networks,
        images_alive=memory.images_alive,
    )
    ledger = manifest.ledger.with_entry(entry)
    footprint = FootprintReport(
        bundle_bytes=manifest.bundle_bytes,
        bundle_bytes_before=parent.path.stat().st_size,
        onnx_bytes=len(onnx_file),
        onnx_bytes_before=onnx_bytes_before or len(onnx_file),
        peak_rss_bytes=entry.peak_rss_bytes,
        export_peak_rss_bytes=peak_rss_bytes(),
        memory=memory,
        ledger_head=ledger.head,
    )
    manifest = manifest.model_copy(update={"ledger": ledger})
    return Candidate(arrays, manifest, previous, onnx_file, parity, footprint)


def commit(home: Home, candidate: Candidate, receipt: Report) -> tuple[str, ...]:
    """Makes the candidate the home's current model in one atomic step; returns warnings, if there are any."""
    return home.commit(lambda generation: write_generation(generation, candidate, receipt))


def write_generation(generation: Generation, candidate: Candidate, receipt: Report) -> None:
    """Writes all files of a generation."""
    manifest = candidate.manifest
    text = receipt_text(receipt, manifest.capacity)
    write_bundle(generation.bundle, candidate.arrays, manifest)
    write_beside_bundle(generation, manifest, candidate.previous, candidate.onnx_file, text)


def write_beside_bundle(
    generation: Generation, manifest: Manifest, previous: Path | None, onnx_file: bytes, receipt: bytes
) -> None:
    """Writes all files of a generation except its bundle; `missing_or_changed` checks the same files.

    Args:
        generation: Generation whose bundle is already written.
        manifest: Manifest of the bundle.
        previous: Path of the bundle that undo would return to; None if there is nothing to return to.
        onnx_file: Content of classifier.onnx.
        receipt: Content of receipt.json.
    """
    if permits_undo(manifest):
        storage.write_file(generation.previous, inspection.read_regular(previous or generation.bundle))
    storage.write_file(generation.onnx, onnx_file)
    storage.write_file(generation.labels, labels_text(manifest))
    storage.write_file(generation.receipt, receipt)


def missing_or_changed(generation: Generation, bundle: Bundle) -> dict[str, str]:
    """Finds the files of a generation that are missing, cannot be read, or do not match its bundle.

    Returns:
        Fault of each such file, by file name.
    """
    m = bundle.manifest
    is_onnx = is_onnx_of(bundle)
    checks: dict[Path, tuple[str, Callable[[Path], bool]]] = {
        generation.onnx: (
            "does not match the bundle: the file was changed, or belongs to another model",
            lambda path: is_onnx(inspection.read_regular(path)),
        ),
        generation.labels: (
            "does not list the bundle's classes: the file was changed",
            lambda path: inspection.read_regular(path) == labels_text(m),
        ),
        generation.receipt: (
            f"is not this model's receipt, which has {receipt_length(m.capacity)} bytes",
            lambda path: _is_receipt_of(m, inspection.read_regular(path)),
        ),
    }
    if permits_undo(m):
        checks[generation.previous] = (
            "does not hold the model before the latest change: the file was changed",
            lambda path: previous_model(generation, bundle) is not None,
        )
    wrong = {}
    for path, (why, is_right) in checks.items():
        if not path.is_file():
            wrong[path.name] = "is missing"
            continue
        try:
            if not is_right(path):
                wrong[path.name] = why
        except (OSError, HomeError) as error:
            if not (refused := inspection.refusal(error)):
                raise
            wrong[path.name] = f"cannot be read ({refused.strerror})"
    return wrong


def permits_undo(manifest: Manifest) -> bool:
    """Returns whether the vendor permits a return to the model before the latest change."""
    return "undo" in manifest.permits


def previous_model(generation: Generation, bundle: Bundle) -> Bundle | None:
    """Opens `previous.lwm`: the bundle that undo returns to or, if there is none, a copy of the current one.

    Returns:
        The bundle; None if the file is missing or damaged, or belongs to another model.

    Raises:
        HomeError: The file may not be read, or its disk fails.
    """
    try:
        previous = open_bundle(generation.previous)
    except BundleError:
        return None
    now, before = bundle.manifest, previous.manifest
    is_before = before.model_digest == now.parent_digest and continues_record(now, before)
    return previous if before == now or is_before else None


def is_onnx_of(bundle: Bundle) -> Callable[[bytes], bool]:
    """Returns a function that tells whether a file's content is the ONNX file made from the bundle."""
    arrays = bundle.arrays()
    if tensors_digest(arrays) != bundle.manifest.tensors_digest:  # the bundle was replaced meanwhile
        return lambda content: False
    try:
        expected = fill_graph(arrays, bundle.manifest)
    except ExportError:
        return lambda content: False
    return lambda content: content == expected


def _is_receipt_of(manifest: Manifest, content: bytes) -> bool:
    try:
        receipt: Any = json.loads(content)
    except (ValueError, RecursionError):
        return False
    same_model = isinstance(receipt, dict) and receipt.get("model_digest") == manifest.model_digest
    return same_model and len(content) == receipt_length(manifest.capacity)


def labels_text(manifest: Manifest) -> bytes:
    """Returns the content of labels.txt: the class names in class_index order, one per line."""
    return "".join(f"{name}\n" for name in manifest.class_names).encode()


def receipt_length(capacity: int) -> int:
    """Returns the length of receipt.json in bytes, which depends on nothing but the capacity."""
    return _RECEIPT_FIXED_BYTES + _RECEIPT_BYTES_PER_CLASS * capacity


def receipt_text(receipt: Report, capacity: int) -> bytes:
    """Returns the receipt as JSON, padded to its fixed length.

    A receipt that would be too long gives the number of skipped files instead of listing them.

    Raises:
        ExportError: The receipt would be too long even with that number.
    """
    length = receipt_length(capacity)
    shorten: list[Callable[[Report], Report]] = [lambda r: r, _without_skipped]
    for shortened in shorten:
        text = shortened(receipt).model_dump_json(indent=2).encode()
        if len(text) < length:
            return padded_receipt(text, capacity)
    raise ExportError(f"the receipt needs {len(text)} bytes, but has only {length}; use shorter class names")


def padded_receipt(text: bytes, capacity: int) -> bytes:
    """Pads a receipt's JSON to its fixed length."""
    return text.ljust(receipt_length(capacity) - 1, b" ") + b"\n"


def _without_skipped(receipt: Report) -> Report:
    skipped = len(getattr(receipt, "skipped", ()))
    return (
        receipt.model_copy(update={"skipped": (f"{skipped} entries, too many to list",)})
        if skipped
        else receipt
    )

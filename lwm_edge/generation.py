"""One generation of a home: bundle, ONNX file, labels and receipt, made together and checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from . import storage
from .bundle import Arrays, Bundle, save_bundle, tensors_digest
from .errors import ExportError
from .export import check_parity, fill_graph, generated_images
from .home import Generation, Home
from .ledger import LedgerEntry
from .manifest import Manifest
from .measurement import MemoryUse
from .network import Network
from .photos import Pixels
from .reports import FootprintReport, ParityReport, Report

_RECEIPT_FIXED_BYTES, _RECEIPT_BYTES_PER_CLASS = 32 * 1024, 512


@dataclass(frozen=True)
class Candidate:
    """A changed model, verified but not yet the home's current one.

    Attributes:
        arrays: The bundle's tensors.
        manifest: With digest and ledger.
        onnx_file: Content of classifier.onnx.
        parity: Of the ONNX file with the network.
        footprint: Before and after.
    """

    arrays: Arrays
    manifest: Manifest
    onnx_file: bytes
    parity: ParityReport
    footprint: FootprintReport


def prepare(
    arrays: Arrays,
    manifest: Manifest,
    network: Network,
    parent: Bundle,
    photos: Pixels | None,
    use: MemoryUse,
    *,
    started: float,
    onnx_bytes_before: int,
) -> Candidate:
    """Exports the changed model and compares the ONNX file with the network.

    Args:
        arrays: The bundle's tensors, `onnx_graph` included.
        manifest: Of the changed model; its digest and ledger are filled in here.
        network: The changed model.
        parent: The bundle before.
        photos: To compare on [B, H, W, 3] uint8; None takes generated pictures.
        use: Measures memory since the change's start.
        started: time.monotonic() of the change's start.
        onnx_bytes_before: Length of the ONNX file before.

    Raises:
        ExportError: Or its subclass ParityError; nothing was written.
    """
    manifest = manifest.model_copy(update={"tensors_digest": tensors_digest(arrays)})
    onnx_file = fill_graph(arrays["onnx_graph"].tobytes(), arrays, manifest)
    images = generated_images(manifest.preprocessing.image_size) if photos is None else photos
    parity = check_parity(onnx_file, network, images, real_photos=photos is not None)
    memory = use.report(network, images)
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
        memory=memory,
        ledger_head=ledger.head,
    )
    manifest = manifest.model_copy(update={"ledger": ledger})
    return Candidate(arrays, manifest, onnx_file, parity, footprint)


def commit(home: Home, candidate: Candidate, receipt: Report) -> None:
    """Makes the candidate the home's current model, at one atomic point."""
    manifest = candidate.manifest
    text = pad_receipt(receipt, manifest.capacity)

    def write(generation: Generation) -> None:
        save_bundle(generation.bundle, candidate.arrays, manifest)
        storage.write_file(generation.onnx, candidate.onnx_file)
        storage.write_file(generation.labels, labels_text(manifest))
        storage.write_file(generation.receipt, text)

    home.commit(write)


def labels_text(manifest: Manifest) -> bytes:
    """Content of labels.txt: the class names in class_index order, one a line."""
    return "".join(f"{name}\n" for name in manifest.class_names).encode()


def receipt_length(capacity: int) -> int:
    """Length of receipt.json in bytes; depends on nothing but the capacity."""
    return _RECEIPT_FIXED_BYTES + _RECEIPT_BYTES_PER_CLASS * capacity


def pad_receipt(receipt: Report, capacity: int) -> bytes:
    """The receipt as JSON, padded with spaces to its fixed length; long lists are cut to fit."""
    length = receipt_length(capacity)
    shorten: list[Callable[[Report], Report]] = [lambda r: r, _without_skipped]
    for shortened in shorten:
        text = shortened(receipt).model_dump_json(indent=2).encode()
        if len(text) < length:
            return text.ljust(length - 1, b" ") + b"\n"
    raise ExportError(f"the receipt needs {len(text)} bytes of {length}; use shorter class names")


def _without_skipped(receipt: Report) -> Report:
    skipped = len(getattr(receipt, "skipped", ()))
    return (
        receipt.model_copy(update={"skipped": (f"{skipped} entries, too many to list",)})
        if skipped
        else receipt
    )

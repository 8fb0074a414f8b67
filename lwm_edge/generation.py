"""One generation of a home: bundle, ONNX file, labels and receipt, made together and checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import storage
from .bundle import Arrays, Bundle, save_bundle, tensors_digest
from .custody import record_change
from .errors import ExportError
from .export import check_parity, fill_graph, generated_images
from .home import Generation, Home
from .manifest import LedgerEntry, Manifest
from .memory import peak_rss_bytes
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
    *,
    started: float,
    onnx_bytes_before: int,
    device_key: Ed25519PrivateKey | None = None,
) -> Candidate:
    """Exports the changed model and compares the ONNX file with the network.

    Args:
        arrays: The bundle's tensors, `onnx_graph` included.
        manifest: Of the changed model; its digest and ledger are filled in here.
        network: The changed model.
        parent: The bundle before.
        photos: To compare on [B, H, W, 3] uint8; None takes generated pictures.
        started: time.monotonic() of the change's start.
        onnx_bytes_before: Length of the ONNX file before.
        device_key: Signs the change's link in the chain of custody; None leaves it unsigned.

    Raises:
        ExportError: Or its subclass ParityError; nothing was written.
    """
    manifest = manifest.model_copy(update={"tensors_digest": tensors_digest(arrays)})
    manifest = record_change(manifest, parent.manifest, device_key)
    onnx_file = fill_graph(arrays["onnx_graph"].tobytes(), arrays, manifest)
    images = generated_images(manifest.preprocessing.image_size) if photos is None else photos
    parity = check_parity(onnx_file, network, images, real_photos=photos is not None)
    entry = LedgerEntry(
        increment=manifest.increment_count,
        classes=len(manifest.class_names),
        bundle_bytes=manifest.bundle_bytes,
        onnx_bytes=len(onnx_file),
        peak_rss_bytes=peak_rss_bytes(),
        seconds=round(time.monotonic() - started, 3),
    )
    footprint = FootprintReport(
        bundle_bytes=manifest.bundle_bytes,
        bundle_bytes_before=parent.path.stat().st_size,
        onnx_bytes=len(onnx_file),
        onnx_bytes_before=onnx_bytes_before or len(onnx_file),
        peak_rss_bytes=entry.peak_rss_bytes,
    )
    manifest = manifest.model_copy(update={"ledger": manifest.ledger.with_entry(entry)})
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

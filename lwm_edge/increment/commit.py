"""The end of an increment: what was learnt is exported, compared, and made the home's model."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..custody.keys import read_private_key
from ..home.generation import prepare, write_generation
from ..home.home import Generation, Home
from ..home.reports import MemoryReport
from ..model.bundle import open_bundle
from ..model.onnx_file import ParityProbe
from ..photos.reading import read_photo
from ..records import ExactPath, Report
from .reports import IncrementReport


class StagedIncrement(Report):
    """What the learning process hands to the committing one; the bundle is in the folder.

    Attributes:
        folder: The staged generation.
        examples: Photos to compare the ONNX file with the network on.
        logits: Of each, as the network gave them.
        seconds: That the learning took.
        memory: Of the learning process.
        sign_with: File of the device's private key.
        receipt: What the receipt says of the learning.
    """

    folder: ExactPath
    examples: tuple[ExactPath, ...]
    logits: tuple[tuple[float, ...], ...]
    seconds: float
    memory: MemoryReport
    sign_with: ExactPath | None
    receipt: dict[str, Any]


def commit_increment(home: Home, increment: StagedIncrement) -> IncrementReport:
    """Exports and compares what was staged, and makes it the home's model. Call it under the home's lock.

    It needs no torch, so it takes less memory than the learning did.

    Raises:
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
    """
    started = time.monotonic() - increment.seconds
    staged, parent = Generation(increment.folder), home.open_bundle()
    bundle = open_bundle(staged.bundle)
    images = [read_photo(path, bundle.manifest.preprocessing) for path in increment.examples]
    candidate = prepare(
        bundle.arrays(),
        bundle.manifest,
        parent,
        ParityProbe(np.stack(images), np.array(increment.logits, dtype=np.float32), real_photos=True),
        increment.memory,
        started=started,
        onnx_bytes_before=home.current().onnx_bytes(),
        device_key=read_private_key(increment.sign_with) if increment.sign_with else None,
    )
    receipt = IncrementReport(
        home=home.path,
        class_names=candidate.manifest.class_names,
        parity=candidate.parity,
        footprint=candidate.footprint,
        onnx=home.onnx,
        model_digest=candidate.manifest.model_digest,
        parent_digest=parent.manifest.model_digest,
        seconds=time.monotonic() - started,
        **increment.receipt,
    )
    write_generation(staged, candidate, receipt)
    home.publish(staged)
    return receipt

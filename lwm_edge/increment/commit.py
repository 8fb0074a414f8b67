"""Ends an increment: exports what was learnt, compares it, and makes it the home's model."""

from __future__ import annotations

import numpy as np

from ..custody.keys import read_private_key
from ..home.generation import prepare, write_generation
from ..home.home import Generation, Home
from ..home.reports import MemoryReport
from ..model.bundle import open_bundle
from ..model.onnx.parity import ParityProbe
from ..records import ExactBytes, ExactPath, Report
from .reports import IncrementReport, LearningReport
from .timing import Timer


class StagedIncrement(Report):
    """Holds what the learning process hands to the committing one; the bundle is in the folder.

    Attributes:
        folder: Path of the staged generation.
        examples: Pixels of a few photos, one after another, for comparing the ONNX file with the network.
        logits: Logits that the student gives for each example.
        seconds_by_part: Time of each part up to now.
        memory: Memory that the learning process took.
        sign_with: Path of the device's private key; None leaves the change unsigned.
        learning: Part of the receipt that is about the learning.
    """

    folder: ExactPath
    examples: ExactBytes
    logits: tuple[tuple[float, ...], ...]
    seconds_by_part: dict[str, float]
    memory: MemoryReport
    sign_with: ExactPath | None
    learning: LearningReport


def commit_increment(home: Home, increment: StagedIncrement, timer: Timer) -> IncrementReport:
    """Exports and compares what was staged, and makes it the home's model; the caller holds the home's lock.

    Args:
        home: Model home.
        increment: Increment that `learn.learn_classes` staged.
        timer: Timer of the increment.

    Raises:
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
    """
    timer.begin("commit")
    staged, parent = Generation(increment.folder), home.open_bundle()
    bundle = open_bundle(staged.bundle)
    size = bundle.manifest.preprocessing.image_size
    images = np.frombuffer(increment.examples, dtype=np.uint8).reshape(-1, size, size, 3)
    candidate = prepare(
        bundle.arrays(),
        bundle.manifest,
        parent,
        ParityProbe(images, np.array(increment.logits, dtype=np.float32), True),
        increment.memory,
        started=timer.started,
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
        seconds=timer.seconds(),
        seconds_by_part=timer.parts(),
        **dict(increment.learning),
    )
    write_generation(staged, candidate, receipt)
    late = home.publish(staged)
    return receipt.model_copy(update={"warnings": (*receipt.warnings, *late)})

"""Ends an increment: exports the new model, checks the ONNX file, and puts the model in the home."""

from __future__ import annotations

import numpy as np

from ..custody.chain import make_deed
from ..custody.keys import read_private_key
from ..home.generation import commit, prepare, write_generation
from ..home.home import Generation, Home
from ..model.bundle import open_bundle
from ..model.custody_record import Deed
from ..model.onnx.parity import ParityProbe
from ..records import Progress, one_step
from .reports import IncrementReport, LearningReport, LearntIncrement, StagedIncrement
from .timing import Timer
from .values import UnwrittenModel


def _deed(learning: LearningReport) -> Deed:
    if learning.known_classes:
        return make_deed("add-photos", learning.known_classes)
    return make_deed("add-classes", learning.new_classes)


def committing(increment: LearntIncrement) -> Progress:
    """Returns the progress report that announces the commit."""
    return one_step("commit", increment.learning.plan.ending_seconds or 0.0)


def commit_increment(
    home: Home, increment: LearntIncrement, timer: Timer, model: UnwrittenModel | None = None
) -> IncrementReport:
    """Exports and checks the new model, and makes it the home's current one; the caller holds the lock.

    Args:
        home: Model home.
        increment: Increment that `learn.learn_classes` returned.
        timer: Timer of the increment.
        model: New model; None if it was staged.

    Raises:
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
        LwmEdgeError: The signing key cannot be used, or the home cannot be written to.
    """
    timer.begin("commit")
    staged = Generation(increment.folder) if isinstance(increment, StagedIncrement) else None
    if staged:
        bundle = open_bundle(staged.bundle)
        model = UnwrittenModel(home.open_bundle(), bundle.arrays(), bundle.manifest)
    assert model is not None, "the model was neither staged nor given"
    parent = model.parent
    size = model.manifest.preprocessing.image_size
    images = np.frombuffer(increment.examples, dtype=np.uint8).reshape(-1, size, size, 3)
    candidate = prepare(
        model.arrays,
        model.manifest,
        parent,
        ParityProbe(images, np.array(increment.logits, dtype=np.float32), True),
        increment.memory,
        started=timer.started,
        onnx_bytes_before=home.current().onnx_bytes(),
        device_key=read_private_key(increment.sign_with) if increment.sign_with else None,
        deed=_deed(increment.learning),
        previous=parent.path,
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
    if staged:
        write_generation(staged, candidate, receipt)
        late_warnings = home.publish(staged)
    else:
        late_warnings = commit(home, candidate, receipt)
    return receipt.model_copy(update={"warnings": (*receipt.warnings, *late_warnings)})

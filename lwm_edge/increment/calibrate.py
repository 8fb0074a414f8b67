"""Provides `calibrate`, which sets the threshold for unknown objects from this device's own photos."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..custody.chain import make_deed
from ..home.changes import Edited, change_model
from ..home.home import Generation, Home
from ..home.readers import class_indices
from ..learning.discriminant import Labels
from ..learning.running import observe
from ..memory import out_of_memory_explained
from ..model import unknown
from ..model.backbone import Backbone
from ..model.bundle import Bundle
from ..model.manifest import Manifest
from ..model.tensors import HISTOGRAM
from ..model.terms import KEPT
from ..photos.folders import read_photo_folder
from ..photos.photo_set import PhotoSet, PixelCache
from ..records import AnyPath, ProgressCallback, ignore_progress
from .reports import CalibrationReport

_IMAGES_AT_ONCE = 4
_PIXEL_CACHE_BYTES = 64 * 2**20


class _Scored(NamedTuple):
    """Holds the scores of photos of known classes.

    Attributes:
        labels: class_index of each photo [M].
        skipped: Files that were left out, each with the reason.
        before: Histogram of all classes' scores before the change [capacity, 128].
        after: Histogram of all classes' scores after the change [capacity, 128].
        manifest: Manifest of the model.
    """

    labels: Labels
    skipped: tuple[str, ...]
    before: unknown.Histogram
    after: unknown.Histogram
    manifest: Manifest


def calibrate(
    home: Home | AnyPath,
    photos: AnyPath,
    *,
    sign_with: AnyPath | None = None,
    on_progress: ProgressCallback = ignore_progress,
    wait: bool = False,
) -> CalibrationReport:
    """Sets the threshold for unknown objects from this device's own photos of known classes.

    The scores of these photos replace the old scores of their classes; those of other classes stay. Nothing
    is learnt. The scores of photos that the model has learnt from are too high, so give other photos.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with a sub-folder of photos for each class to calibrate: some or all of the
            model's classes.
        sign_with: Path of the device's private key, to sign the change with.
        on_progress: Function that is called before each photo, and before the changed model is exported; any
            exception that it raises ends the call.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        PhotosError: Some sub-folders name no class of the model, or have no usable photos.
        BundleError: The home's bundle is damaged.
        ExportError: The bundle's graph cannot be run here, or its results differ from those obtained
            where the model was trained (ParityError).
        HomeError: There is no home, or it cannot be written to.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the signing key
            cannot be used.
        ResourceError: Memory or disk space ran out.
    """
    scored: list[_Scored] = []

    def edit(generation: Generation, model: Bundle) -> Edited:
        """Replaces the histograms of the classes that the photos show."""
        scored.append(_score(model, Path(photos), on_progress))
        names = [model.manifest.class_names[label] for label in np.unique(scored[0].labels)]
        arrays = {**model.arrays(), HISTOGRAM: scored[0].after}
        return Edited(arrays, model.manifest, make_deed("calibrate", names))

    with out_of_memory_explained():
        change = change_model(home, edit, sign_with=sign_with, on_progress=on_progress, wait=wait)
    (found,) = scored
    given, before = np.unique(found.labels), unknown.lowest_kept(found.before, KEPT)
    calibration = unknown.calibrate(found.after)
    return CalibrationReport(
        change=change,
        photos=len(found.labels),
        calibrated_classes=tuple(found.manifest.class_names[label] for label in given),
        kept_before=None if before is None else _share_kept(found.after[given], before),
        calibration=calibration,
        skipped=found.skipped,
        warnings=(*change.warnings, *_warnings(calibration, found.manifest)),
    )


def _score(model: Bundle, folder: Path, on_progress: ProgressCallback) -> _Scored:
    """Scores photos of known classes; their scores replace those in the histograms of these classes."""
    m, cache = model.manifest, PixelCache(_PIXEL_CACHE_BYTES)
    found = read_photo_folder(folder, m.preprocessing, cache, min_photos=1, on_progress=on_progress)
    rows = class_indices(found, m.class_names, folder)
    photos = PhotoSet([p for group in found.photos for p in group], m.preprocessing, cache)
    labels = np.array([rows[label] for label in photos.labels], dtype=np.int64)
    seen = observe(Backbone(model), photos, _IMAGES_AT_ONCE, on_progress)
    scores = unknown.known_scores(seen.head_inputs, model.arrays(), len(m.class_names))
    before, given = model.arrays(HISTOGRAM)[HISTOGRAM], np.unique(labels)
    after = before.copy()
    after[given] = unknown.count_scores(scores, labels, m.capacity)[given]
    return _Scored(labels, found.skipped, before, after, m)


def _share_kept(histogram: unknown.Histogram, score: float) -> float:
    counts = histogram.sum(0, dtype=np.int64)
    return float(counts[unknown.is_kept(score)].sum() / counts.sum())


def _warnings(calibration: unknown.Calibration, manifest: Manifest) -> list[str]:
    warnings = []
    if not calibration.has_enough_photos(KEPT):
        warnings.append(
            f"there is no threshold yet: a threshold that keeps {KEPT:.0%} of photos needs at least "
            f"{unknown.fewest_photos(KEPT)} photos of known classes (so far: {calibration.photos})"
        )
    elif calibration.threshold(KEPT) is None:
        warnings.append(
            "there is no threshold: too many photos of known classes look like none of the classes, so a "
            f"threshold that keeps {KEPT:.0%} of them would keep photos of anything; check that these photos "
            "show the classes that they are filed under"
        )
    if missing := len(manifest.class_names) - calibration.classes:
        warnings.append(
            f"no photos of {missing} of the {len(manifest.class_names)} classes were scored, so it is not "
            "known how many of their photos a threshold keeps"
        )
    return warnings

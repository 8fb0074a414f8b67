"""Calibrates the score for unknown objects on photos of the device's own: `calibrate`."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ..custody.keys import read_private_key
from ..home.generation import Candidate, commit, prepare
from ..home.home import Home, open_home
from ..home.measurement import MemoryUse
from ..home.readers import class_indices
from ..home.trust import require_trusted_model
from ..learning.discriminant import Labels
from ..learning.running import observe
from ..memory import out_of_memory_explained
from ..model import unknown
from ..model.backbone import Backbone
from ..model.bundle import HISTOGRAM
from ..model.manifest import Manifest
from ..model.onnx.parity import shipped_probe
from ..model.terms import KEPT
from ..photos.folders import read_photo_folder
from ..photos.photo_set import PhotoSet, PixelCache
from ..records import AnyPath, Progress, ProgressCallback, ignore_progress
from .reports import CalibrationReport

_BATCH_SIZE = 16
_PIXEL_CACHE_BYTES = 64 * 2**20


def calibrate(
    home: Home | AnyPath,
    photos: AnyPath,
    *,
    sign_with: AnyPath | None = None,
    on_progress: ProgressCallback = ignore_progress,
    wait: bool = False,
) -> CalibrationReport:
    """Sets the threshold for unknown objects by photos of known classes, as this device takes them.

    The scores of these photos take the place of what was kept for their classes; other classes keep theirs.
    Nothing is learnt. Photos that the model has learnt score too high, so give it others.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with one sub-folder of photos for each class, for any of the model's classes.
        sign_with: Path of the device's private key, to sign the change with.
        on_progress: Function that is called before each photo; what it raises ends the call.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        PhotosError: A folder is not a class of the model, or has no usable photo; all of them are listed.
        HomeError: There is no home, or it cannot be written.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the key to sign
            with cannot be used.
    """
    started = time.monotonic()
    home, folder = open_home(home), Path(photos)
    with home.lock(wait=wait), out_of_memory_explained(), MemoryUse.measured() as use:
        parent = home.open_bundle()
        require_trusted_model(home, parent.manifest)
        device_key = read_private_key(sign_with) if sign_with else None
        cache, classes = PixelCache(_PIXEL_CACHE_BYTES), len(parent.manifest.class_names)
        found, labels, skipped = _read(folder, parent.manifest, cache, on_progress)
        seen = observe(Backbone(parent), found, _BATCH_SIZE, on_progress)
        cache.forget()
        arrays, capacity = parent.arrays(), parent.manifest.capacity
        before = unknown.lowest_kept(arrays[HISTOGRAM], KEPT)
        given = np.unique(labels)
        scores = unknown.known_scores(seen.head_inputs, arrays, classes)
        arrays[HISTOGRAM][given] = unknown.count_scores(scores, labels, capacity)[given]
        probe = shipped_probe(arrays, parent.manifest)
        on_progress(Progress(phase="commit", done=0, total=1))
        candidate = prepare(
            arrays,
            _next(parent.manifest),
            parent,
            probe,
            use.report(parent.manifest.preprocessing.image_size, probe.images),
            started=started,
            onnx_bytes_before=home.current().onnx_bytes(),
            device_key=device_key,
        )
        report = _report(home, candidate, labels, skipped, before)
        late = commit(home, candidate, report)
        return report.model_copy(update={"warnings": (*report.warnings, *late)})


def _read(
    folder: Path, manifest: Manifest, cache: PixelCache, on_progress: ProgressCallback
) -> tuple[PhotoSet, Labels, tuple[str, ...]]:
    """Reads photos of known classes; returns them, the class_index of each, and what was skipped."""
    found = read_photo_folder(folder, manifest.preprocessing, cache, min_photos=1, on_progress=on_progress)
    rows = class_indices(found, manifest.class_names, folder)
    photos = PhotoSet([p for group in found.photos for p in group], manifest.preprocessing, cache)
    return photos, np.array([rows[label] for label in photos.labels], dtype=np.int64), found.skipped


def _report(
    home: Home, candidate: Candidate, labels: Labels, skipped: tuple[str, ...], before: float | None
) -> CalibrationReport:
    """Reports what was changed; `before` is the lowest score that the threshold before kept."""
    manifest, histogram = candidate.manifest, candidate.arrays[HISTOGRAM]
    calibration, given = unknown.calibrate(histogram), np.unique(labels)
    return CalibrationReport(
        home=home.path,
        photos=len(labels),
        calibrated_classes=tuple(manifest.class_names[label] for label in given),
        kept_before=None if before is None else _share_kept(histogram[given], before),
        calibration=calibration,
        class_names=manifest.class_names,
        model_digest=manifest.model_digest,
        parity=candidate.parity,
        footprint=candidate.footprint,
        onnx=home.onnx,
        skipped=skipped,
        warnings=(*home.describe_foreign(), *_warnings(calibration, manifest)),
    )


def _next(manifest: Manifest) -> Manifest:
    update = {"parent_digest": manifest.model_digest, "increment_count": manifest.increment_count + 1}
    return manifest.model_copy(update=update)


def _share_kept(histogram: unknown.Histogram, score: float) -> float:
    counts = histogram.sum(0, dtype=np.int64)
    return float(counts[unknown.is_kept(score)].sum() / counts.sum())


def _warnings(calibration: unknown.Calibration, manifest: Manifest) -> list[str]:
    warnings = []
    if calibration.threshold(KEPT) is None:
        warnings.append(
            f"there is no threshold yet: {calibration.photos} photos say nothing about {KEPT:.0%} of "
            f"them; {unknown.fewest_photos(KEPT)} are needed, of any known classes"
        )
    if missing := len(manifest.class_names) - calibration.classes:
        warnings.append(
            f"no photos stand behind the threshold for {missing} of {len(manifest.class_names)} classes, so "
            "how many photos of these it keeps is not known"
        )
    return warnings

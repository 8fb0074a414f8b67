"""Classifies photos (`predict`), measures accuracy (`evaluate`) and describes models (`info`), without torch.

Photos go through the exported ONNX file, as they would in an app.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, PhotosError
from ..model.bundle import Bundle, open_bundle
from ..model.classifier import Classifier, Prediction
from ..model.custody_record import ChangeKind
from ..model.evaluation import TOP, EvaluationReport, evaluate_ranks
from ..model.ledger import Ledger
from ..model.manifest import Levels, Manifest
from ..model.tensors import HISTOGRAM
from ..model.terms import KEPT, TOP_K, Activation
from ..model.unknown import Calibration, calibrate, kept_by_class
from ..photos.class_names import fold_class_name
from ..photos.folders import PhotoFolder, read_photo_folder
from ..photos.in_memory import AnyPhoto, name_of, photos_in
from ..photos.left_out import left_out_lines
from ..photos.listing import files_below
from ..photos.photo_set import PhotoSet, PixelCache
from ..photos.preprocessing import Preprocessing
from ..records import AnyNamePath, AnyPath, ProgressCallback, Report, ignore_progress, printable
from .home import Home, home_or_bundle, open_home
from .interrupted import InterruptedReport, interrupted_increment

_PIXEL_CACHE_BYTES = 64 * 1024 * 1024


class PastChange(Report):
    """Reports one change to a model, as recorded in its custody record and ledger.

    Attributes:
        increment: Number of the change.
        change: Kind of the change; None if the record does not say.
        class_names: Names of the first classes that the change affected. For a renaming, they are the old
            name and the new one; for a merge, the class that was merged and the class that it was merged
            into.
        more_classes: Number of further classes that the change affected.
        time: Time of the change by the device's clock; None if the record does not say.
        classes: Number of classes after the change; None if the ledger does not go back that far.
        model_digest: Digest of the model after the change.
        signed_by: Public key that the change's signature names; None if the change is not signed. Only
            `verify` checks the signature.
    """

    increment: int
    change: ChangeKind | None
    class_names: tuple[str, ...]
    more_classes: int
    time: datetime | None
    classes: int | None
    model_digest: str
    signed_by: str | None


class InfoReport(Report):
    """Reports what a bundle or a home contains.

    Attributes:
        home: Path of the home; None if the report is about a bundle file.
        bundle: Path of the bundle.
        onnx: Path of the exported classifier; None if the report is about a bundle file.
        architecture: Key of the architecture.
        activation: Function that turns logits into probabilities.
        preprocessing: Preprocessing that turns a photo into the network's input.
        levels: Earlier blocks that the head reads; None if it reads the last feature maps alone.
        class_names: Class names in class_index order.
        shipped_classes: Number of the vendor's classes that the model still has.
        capacity: Maximum number of classes.
        bundle_bytes: Length of the bundle.
        increment_count: Number of changes since the bundle was shipped.
        recipe: Recipe of the latest increment; "base" if there was none.
        model_digest: Digest of the model.
        parent_digest: Digest of the model before the latest change; None if there was no change.
        ledger: Footprints of the latest changes and of making the home, and the maximum of each figure.
        unknown: Thresholds of the score for unknown objects.
        kept_by_class: Number of photos that the default threshold keeps, and total number of photos, for each
            class that has enough photos to judge by.
        history: Latest changes, oldest first, as far back as the record goes.
        interrupted: Interrupted increment that can be continued; None if there is none.
    """

    home: AnyNamePath | None
    bundle: AnyNamePath
    onnx: AnyNamePath | None
    architecture: str
    activation: Activation
    preprocessing: Preprocessing
    levels: Levels | None
    class_names: tuple[str, ...]
    shipped_classes: int
    capacity: int
    bundle_bytes: int
    increment_count: int
    recipe: str
    model_digest: str
    parent_digest: str | None
    ledger: Ledger
    unknown: Calibration
    kept_by_class: dict[str, tuple[int, int]]
    history: tuple[PastChange, ...]
    interrupted: InterruptedReport | None = None


class PredictionReport(Report):
    """Reports what `predict` found.

    Attributes:
        onnx: Path of the classifier that ran.
        model_digest: Digest of the model in that classifier.
        predictions: Predictions, one per photo.
    """

    onnx: AnyNamePath
    model_digest: str
    predictions: tuple[Prediction, ...]


def predict(
    home: Home | AnyPath,
    photos: AnyPhoto | Iterable[AnyPhoto],
    *,
    top_k: int = TOP_K,
    keep: float = KEPT,
    on_progress: ProgressCallback = ignore_progress,
) -> PredictionReport:
    """Classifies photos with a home's current model.

    Args:
        home: Model home, or the path of its folder.
        photos: One photo or several, each in any form that `prepare_photo` accepts; a folder stands for the
            photos in it and in its sub-folders.
        top_k: Number of classes to return for each photo, best first.
        keep: Share of photos of known classes that must not be called unknown; one of `model.terms.SHARES`.
        on_progress: Function that is called before each photo; any exception that it raises ends the call.

    Raises:
        HomeError: There is no home.
        ExportError: The home's ONNX file is missing, or lwm-edge did not export it.
        ConfigError: `keep` is not one of `model.terms.SHARES`, `top_k` is less than 1, or a photo is of a
            type that is not accepted.
        PhotosError: None of the photos and folders can be read; if only some cannot, the report says why.
        ResourceError: Memory ran out.
    """
    home = open_home(home)
    given, left_out = list[AnyPhoto](), list[Prediction]()
    for photo in photos_in(photos):
        inside, problems = _in_folder(photo)
        given += inside
        left_out += [Prediction(photo=Path(str(photo)), error=problem) for problem in problems]
    classifier = home.read(lambda generation: Classifier(generation.onnx))
    predictions = classifier.classify(given, top_k, keep=keep, on_progress=on_progress)
    if (predictions or left_out) and all(p.error for p in predictions):
        files = [(p.photo, p.error or "") for p in predictions if p.photo]
        pairs = zip(predictions, given, strict=True)
        others = [f"{name_of(photo)} {p.error}" for p, photo in pairs if not p.photo]
        others += [f"{printable(p.photo)}: {p.error}" for p in left_out if p.photo]
        raise PhotosError("none of the photos can be read", left_out_lines(files, printable, others))
    return PredictionReport(
        onnx=home.onnx, model_digest=classifier.model_digest, predictions=(*predictions, *left_out)
    )


def _in_folder(photo: AnyPhoto) -> tuple[list[AnyPhoto], list[str]]:
    """Lists the files in a folder and its sub-folders, or just the photo if it is not a folder's path.

    Returns:
        The files, and lines about folders that are left out, worded to follow the folder's name and a colon.
    """
    if isinstance(photo, str) and not photo:
        raise ConfigError("a photo's path is empty; give the path of a photo or a folder")
    if not isinstance(photo, str | PathLike) or not _is_folder(Path(photo)):
        return [photo], []
    files, problems = files_below(Path(photo))
    if not files and not problems:
        problems = ["has no photos in it"]
    return [*files], problems


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the path is too long, for example, which is said when the photo is read
        return False


def evaluate(
    home: Home | AnyPath, folder: AnyPath, *, on_progress: ProgressCallback = ignore_progress
) -> EvaluationReport:
    """Measures a home's current model on class folders of labelled photos.

    Args:
        home: Model home, or the path of its folder.
        folder: Path of a folder with a sub-folder of photos for each class to measure: some or all of the
            model's classes. Sub-folders of other classes are left out, and named in the report.
        on_progress: Function that is called before each photo is read, and again before it is classified; any
            exception that it raises ends the call.

    Raises:
        HomeError: There is no home.
        BundleError: The home's bundle is damaged.
        ExportError: The home's ONNX file is missing, or lwm-edge did not export it.
        PhotosError: The folder cannot be used: for example, no sub-folder is named after a class of the
            model, or a class has no usable photo.
        ResourceError: Memory ran out.
    """
    home, folder = open_home(home), Path(folder)
    manifest, classifier = home.read(lambda g: (open_bundle(g.bundle).manifest, Classifier(g.onnx)))
    cache = PixelCache(_PIXEL_CACHE_BYTES)
    known = {fold_class_name(name) for name in classifier.class_names}
    photo_folder = read_photo_folder(
        folder,
        classifier.preprocessing,
        cache,
        min_photos=1,
        wanted=lambda name: fold_class_name(name) in known,
        on_progress=on_progress,
    )
    if not photo_folder.class_names:
        raise PhotosError(
            f"no folder in {folder} is a class of the model, which knows: "
            f"{', '.join(classifier.class_names)}",
            photo_folder.left_out,
        )
    class_index = class_indices(photo_folder, classifier.class_names, folder)
    photos = PhotoSet([p for group in photo_folder.photos for p in group], classifier.preprocessing, cache)
    labels = np.array([class_index[label] for label in photos.labels])
    report = evaluate_ranks(
        classifier.rank(photos, TOP, on_progress=on_progress),
        labels,
        classifier.class_names,
        manifest.shipped_classes,
        photo_folder.skipped,
    )
    return report.model_copy(update={"left_out": photo_folder.left_out})


def class_indices(photo_folder: PhotoFolder, class_names: Sequence[str], folder: Path) -> list[int]:
    """Finds the class_index of each class folder.

    Raises:
        PhotosError: Some folders are not classes of the model.
    """
    index = {fold_class_name(name): i for i, name in enumerate(class_names)}
    unknown = [name for name in photo_folder.class_names if fold_class_name(name) not in index]
    if unknown:
        raise PhotosError(
            f"{folder} has folders that are not classes of the model, which knows: {', '.join(class_names)}",
            unknown,
        )
    return [index[fold_class_name(name)] for name in photo_folder.class_names]


def info(source: Home | AnyPath) -> InfoReport:
    """Describes a model home's current model, or a bundle file.

    Args:
        source: Model home, or the path of its folder or of a bundle.

    Raises:
        HomeError: There is no home.
        BundleError: The bundle is missing or damaged.
        ResourceError: Memory ran out.
    """
    found = home_or_bundle(source)
    home = found if isinstance(found, Home) else None
    bundle, histogram = (
        found.read(lambda g: _with_histogram(g.bundle)) if isinstance(found, Home) else _with_histogram(found)
    )
    m = bundle.manifest
    return InfoReport(
        home=home.path if home else None,
        bundle=bundle.path,
        onnx=home.onnx if home else None,
        architecture=m.architecture,
        activation=m.activation,
        preprocessing=m.preprocessing,
        levels=m.levels,
        class_names=m.class_names,
        shipped_classes=m.shipped_classes,
        capacity=m.capacity,
        bundle_bytes=m.bundle_bytes,
        increment_count=m.increment_count,
        recipe=m.recipe,
        model_digest=m.model_digest,
        parent_digest=m.parent_digest,
        ledger=m.ledger,
        unknown=calibrate(histogram),
        kept_by_class=dict(kept_by_class(histogram, m.class_names)),
        history=_history(m),
        interrupted=interrupted_increment(home, m.model_digest) if home else None,
    )


def _with_histogram(path: Path) -> tuple[Bundle, NDArray[np.int32]]:
    """Opens a bundle, and reads its histogram of scores for unknown objects."""
    bundle = open_bundle(path)
    return bundle, bundle.arrays(HISTOGRAM)[HISTOGRAM]


def _history(manifest: Manifest) -> tuple[PastChange, ...]:
    classes = {entry.increment: entry.classes for entry in manifest.ledger.latest}
    return tuple(
        PastChange(
            increment=link.increment,
            change=link.deed.kind if link.deed else None,
            class_names=link.deed.class_names if link.deed else (),
            more_classes=link.deed.more_classes if link.deed else 0,
            time=datetime.fromtimestamp(link.deed.unix_seconds, timezone.utc) if link.deed else None,
            classes=classes.get(link.increment),
            model_digest=link.model_digest,
            signed_by=link.signature.key if link.signature else None,
        )
        for link in (manifest.custody.links if manifest.custody else ())
    )

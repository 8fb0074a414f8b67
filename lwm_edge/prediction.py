"""`predict` and `evaluate`: through the exported ONNX file, as an app would; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .bundle import open_bundle
from .errors import PhotosError
from .evaluation import evaluate_predictions
from .home import AnyPath, Home, open_home
from .inference import Classifier
from .manifest import fold_class_name
from .model_reports import PredictionReport
from .photo_folders import PhotoFolder, read_photo_folder
from .photos import PhotoSet, PixelCache
from .reports import EvaluationReport

_PIXEL_CACHE_BYTES = 64 * 1024 * 1024


def predict(home: Home | AnyPath, photos: Sequence[AnyPath], *, top_k: int = 3) -> PredictionReport:
    """Classifies photos with a home's current model.

    Args:
        home: The model home, or its folder.
        photos: The files.
        top_k: How many classes of each, best first.

    Raises:
        HomeError: There is no home.
        ExportError: Its ONNX file is missing or foreign.
        PhotosError: None of the photos can be read; a single bad one is reported beside the others.
    """
    home = open_home(home)
    classifier = home.read(lambda generation: Classifier(generation.onnx))
    predictions = classifier.classify([Path(photo) for photo in photos], top_k)
    if predictions and all(p.error for p in predictions):
        raise PhotosError("none of the photos can be read", [f"{p.photo} {p.error}" for p in predictions])
    return PredictionReport(onnx=home.onnx, model_digest=classifier.model_digest, predictions=predictions)


def evaluate(home: Home | AnyPath, folder: AnyPath) -> EvaluationReport:
    """Measures a home's current model on class folders of labelled photos.

    Args:
        home: The model home, or its folder.
        folder: One sub-folder of photos for each class, any of the model's classes.

    Raises:
        HomeError: There is no home.
        ExportError: Its ONNX file is missing or foreign.
        PhotosError: A folder is no class of the model, or has no usable photo; lists all.
    """
    home, folder = open_home(home), Path(folder)
    manifest, classifier = home.read(lambda g: (open_bundle(g.bundle).manifest, Classifier(g.onnx)))
    cache = PixelCache(_PIXEL_CACHE_BYTES)
    photo_folder = read_photo_folder(folder, classifier.preprocessing, cache, least_photos=1)
    class_index = _class_indices(photo_folder, classifier.class_names, folder)
    photos = PhotoSet([p for group in photo_folder.photos for p in group], classifier.preprocessing, cache)
    labels = np.array([class_index[label] for label in photos.labels])
    return evaluate_predictions(
        classifier.predict(photos),
        labels,
        classifier.class_names,
        manifest.shipped_classes,
        photo_folder.skipped,
    )


def _class_indices(photo_folder: PhotoFolder, class_names: Sequence[str], folder: Path) -> list[int]:
    index = {fold_class_name(name): i for i, name in enumerate(class_names)}
    unknown = [name for name in photo_folder.class_names if fold_class_name(name) not in index]
    if unknown:
        raise PhotosError(
            f"{folder} has folders that are no class of the model; it knows: {', '.join(class_names)}",
            unknown,
        )
    return [index[fold_class_name(name)] for name in photo_folder.class_names]

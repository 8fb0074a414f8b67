"""Classifies photos with an exported ONNX file, without torch, as a vendor's app would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, PhotosError, explains_os_failures
from ..photos.in_memory import AnyPhoto, photos_in, prepare_photo
from ..photos.photo_set import PhotoSet
from ..records import AnyNamePath, ProgressCallback, Report, StepReporter, ignore_progress
from .onnx_file import OnnxFile
from .terms import KEPT, SHARES, TOP_K
from .unknown import listed_shares

_BATCH_SIZE = 16


class Prediction(Report):
    """Reports the best classes for one photo.

    Attributes:
        photo: Path of the photo; None if it was given in memory.
        class_names: Names of the best classes, best first.
        probabilities: Probabilities of these classes.
        known_score: Score that is higher the more the photo resembles any class; see `model.unknown`.
        unknown: Whether that score is so low that the photo counts as showing none of the classes; None if
            the model has no threshold for the score; see `Calibration`.
        error: Reason why the photo could not be read; the fields about classes are then empty. None if it
            could be read.
    """

    photo: AnyNamePath | None
    class_names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    known_score: float | None = None
    unknown: bool | None = None
    error: str | None = None


class Classifier(OnnxFile):
    """Classifies photos with an exported ONNX file, which is loaded once and used as often as it is needed.

    It has the attributes of an `OnnxFile`: `path`, `class_names`, `preprocessing`, `model_digest`,
    `calibration` and `static_batch`. Threads may share it, and any of them may call `reload`.

    Args:
        source: Path of the ONNX file, or the file's content.

    Raises:
        ExportError: There is no such file, it is damaged, or lwm-edge did not export it.
        ConfigError: The source is neither a path nor bytes.
    """

    def predict(
        self, photos: PhotoSet, *, on_progress: ProgressCallback = ignore_progress
    ) -> NDArray[np.int64]:
        """Predicts the class_index of the best class for each photo [M] int64.

        Args:
            photos: Photos to classify.
            on_progress: Function that is called before each photo.

        Raises:
            PhotosError: A photo can no longer be read.
            ExportError: ONNX Runtime cannot run the file.
            ResourceError: Memory ran out.
        """
        return self.rank(photos, 1, on_progress=on_progress)[:, 0]

    def rank(
        self, photos: PhotoSet, top_k: int, *, on_progress: ProgressCallback = ignore_progress
    ) -> NDArray[np.int64]:
        """Ranks the best classes for each photo; returns their class indices [M, up to top_k] int64.

        Args:
            photos: Photos to classify.
            top_k: Number of classes to return for each photo, best first.
            on_progress: Function that is called before each photo.

        Raises:
            PhotosError: A photo can no longer be read.
            ExportError: ONNX Runtime cannot run the file.
            ResourceError: Memory ran out.
        """
        model, count = self.as_loaded(), len(photos.photos)
        report = StepReporter("evaluate", count, on_progress)
        batches = (range(count)[start : start + _BATCH_SIZE] for start in range(0, count, _BATCH_SIZE))
        logits = (model.run(photos.load(batch, report=report))[0] for batch in batches)
        best = [np.argsort(-rows, axis=1, kind="stable")[:, :top_k] for rows in logits]
        return np.concatenate(best).astype(np.int64)

    @explains_os_failures
    def classify(
        self,
        photos: AnyPhoto | Iterable[AnyPhoto],
        top_k: int = TOP_K,
        *,
        keep: float = KEPT,
        on_progress: ProgressCallback = ignore_progress,
    ) -> tuple[Prediction, ...]:
        """Ranks the best classes for each photo; a photo that cannot be read gets an error instead.

        Args:
            photos: One photo or several, each in any form that `prepare_photo` accepts: a path, bytes, an
                open file, a PIL image or an array of any size.
            top_k: Number of classes to return for each photo, best first.
            keep: Share of photos of known classes that must not be called unknown; one of `terms.SHARES`.
            on_progress: Function that is called before each photo.

        Raises:
            ConfigError: A photo is of a type that is not accepted, or a setting is out of range.
            ExportError: ONNX Runtime cannot run the file.
            ResourceError: Memory ran out.
        """
        given = photos_in(photos)
        if keep not in SHARES:
            raise ConfigError(f"the share of known photos to keep must be {listed_shares()}, not {keep:g}")
        if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
            raise ConfigError(f"top_k must be a whole number of classes, at least 1, not {top_k!r}")
        model = self.as_loaded()
        threshold = model.calibration.threshold(keep)
        report = StepReporter("features", len(given), on_progress)
        predictions: list[Prediction] = []
        for start in range(0, len(given), _BATCH_SIZE):
            predictions += model._classify_batch(given[start : start + _BATCH_SIZE], top_k, threshold, report)
        return tuple(predictions)

    def _classify_batch(
        self, photos: Sequence[AnyPhoto], top_k: int, threshold: float | None, report: StepReporter
    ) -> list[Prediction]:
        predictions, images = [], []
        for photo in photos:
            report()
            path, error = Path(photo) if isinstance(photo, str | PathLike) else None, None
            try:
                images.append(prepare_photo(photo, self.preprocessing, on_wait=report.again))
            except PhotosError as problem:
                error = problem.message
            predictions.append(Prediction(photo=path, error=error))
        if not images:
            return predictions
        _, probabilities, unknown = self.outputs(np.stack(images))
        rows = zip(probabilities, unknown.tolist(), strict=True)
        return [p if p.error else self._ranked(p, *next(rows), top_k, threshold) for p in predictions]

    def _ranked(
        self,
        prediction: Prediction,
        probabilities: NDArray[np.float32],
        unknown: float,
        top_k: int,
        threshold: float | None,
    ) -> Prediction:
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return Prediction(
            photo=prediction.photo,
            class_names=tuple(self.class_names[i] for i in best),
            probabilities=tuple(float(probabilities[i]) for i in best),
            known_score=-unknown,
            unknown=None if threshold is None else unknown > threshold,
        )

"""Runs the exported classifier through ONNX Runtime, without torch, as a vendor's app would.

Everything needed is in the ONNX file: class names, preprocessing and the model's digest are in its
metadata (https://onnx.ai/onnx/repo-docs/IR.html, metadata_props).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from .. import inspection
from ..errors import ConfigError, ExportError, PhotosError, explains_os_failures, first_line
from ..freed_memory import freed_memory_kept
from ..photos.in_memory import AnyPhoto, photos_in, prepare_photo
from ..photos.photo_set import PhotoSet
from ..photos.pixels import Pixels
from ..photos.preprocessing import Preprocessing
from ..processors import usable_processors
from ..records import (
    AnyNamePath,
    ProgressCallback,
    Report,
    StepReporter,
    ignore_progress,
    printable,
)
from .terms import KEPT, SHARES
from .unknown import Calibration, listed_shares

CLASS_NAMES_KEY = "class_names"
PREPROCESSING_KEY = "preprocessing"
DIGEST_KEY = "model_digest"
INPUT = "image"
LOGITS, PROBABILITIES, HEAD_INPUTS = "logits", "probabilities", "head_inputs"
UNKNOWN = "unknown"
"""Name of an output, and of the metadata entry that holds its thresholds."""
_BATCH_SIZE = 16

_WHAT_TO_DO = "rebuild it with lwm-edge repair (in a model home) or lwm-edge export"
_IN_A_HOME = "current/classifier.onnx"
_NAMES = TypeAdapter(tuple[str, ...])


class Prediction(Report):
    """Ranks one photo's best classes.

    Attributes:
        photo: Path of the photo; None if it was given in memory.
        class_names: Names of the best classes, best first.
        probabilities: Probabilities of these classes.
        known_score: Score that is larger the more the photo resembles some class; see `model.unknown`.
        unknown: Whether that score is so small that the photo counts as none of the classes; None if the
            model was not calibrated.
        error: Reason why the photo could not be read; the other fields are then empty.
    """

    photo: AnyNamePath | None
    class_names: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    known_score: float | None = None
    unknown: bool | None = None
    error: str | None = None


class Outputs(NamedTuple):
    """Holds what the model computes for images.

    Attributes:
        logits: Logits [B, classes] float32.
        probabilities: Probabilities [B, classes] float32.
        unknown: Score [B] float32 that is larger the less an image resembles any class.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    unknown: NDArray[np.float32]


class Classifier:
    """Runs an exported classifier, which is loaded once and used often.

    Attributes:
        path: Path of the ONNX file; None if its content was given.
        class_names: Class names in the order of the outputs.
        preprocessing: Preprocessing that turns a photo into the input.
        model_digest: Digest of the model that was exported.
        calibration: Thresholds of the score for unknown objects.
        static_batch: Number of images that the file takes at once; None for any.

    Args:
        source: Path of the ONNX file, or its content.

    Raises:
        ExportError: There is no such file, or lwm-edge did not export it.
        ConfigError: The source is neither a path nor bytes.
    """

    @explains_os_failures
    def __init__(self, source: str | PathLike[str] | bytes) -> None:
        self.path = None if isinstance(source, bytes) else Path(source)
        self._loaded = _identity(self.path)  # before the file is read, so that no later one is missed
        where = self._where = self.path or "the exported ONNX file"
        if self.path and not self.path.is_file():
            if os.path.lexists(self.path):
                what = inspection.kind_at(self.path, follow=True)
                raise ExportError(f"{where} is {what}; give the ONNX file, such as HOME/{_IN_A_HOME}")
            raise ExportError(f"{where} does not exist; {_WHAT_TO_DO}")
        try:
            self._session: Any = open_session(
                source if isinstance(source, bytes) else _for_onnx_runtime(Path(source))
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.class_names: tuple[str, ...] = _NAMES.validate_json(metadata[CLASS_NAMES_KEY])
            self.preprocessing = Preprocessing.model_validate_json(metadata[PREPROCESSING_KEY])
            self.model_digest: str = metadata[DIGEST_KEY]
            self.calibration = Calibration.model_validate_json(metadata[UNKNOWN])
            self._outputs, self.static_batch = _shapes(self._session)
        except (KeyError, ValueError):
            raise ExportError(
                f"{where} was not exported by lwm-edge, or is damaged: its metadata lacks the class names; "
                f"{_WHAT_TO_DO}"
            ) from None
        except Exception as error:  # ONNX Runtime's own errors derive from Exception alone
            raise ExportError(
                f"{where} cannot be loaded by ONNX Runtime: {first_line(error)}; {_WHAT_TO_DO}"
            ) from None

    @property
    def stale(self) -> bool:
        """Returns whether the path now leads to another file, as a home's does after each increment.

        Asking is cheap, as no file is read. A missing file does not make the classifier stale, and one made
        from bytes is never stale.
        """
        now = _identity(self.path)
        return now is not None and now != self._loaded

    @explains_os_failures
    def reload(self) -> None:
        """Loads the file that the path leads to now; if that fails, the classifier stays as it was.

        Raises:
            ExportError: There is no such file, or lwm-edge did not export it.
            ConfigError: The classifier was made from bytes, so there is no file to load.
        """
        if self.path is None:
            raise ConfigError("this classifier was made from bytes; make another one from the new content")
        self.__dict__.update(vars(Classifier(self.path)))

    def run(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Runs the model on prepared images as `outputs` does, but returns only logits and probabilities."""
        logits, probabilities, _ = self.outputs(images)
        return logits, probabilities

    def outputs(self, images: Pixels) -> Outputs:
        """Runs the model on prepared images.

        Args:
            images: RGB images at the model's size [B, H, W, 3] uint8; any number of them, even if the file
                was exported for a single batch size.

        Raises:
            ExportError: The file is damaged: it fails, or its outputs are wrong.
        """
        if not self.static_batch or len(images) == self.static_batch:
            return self._run(images)
        full = max(1, -(-len(images) // self.static_batch)) * self.static_batch
        padded = np.resize(images, (full, *images.shape[1:]))
        batches = [self._run(batch) for batch in np.split(padded, full // self.static_batch)]
        return Outputs(*(np.concatenate(parts)[: len(images)] for parts in zip(*batches, strict=True)))

    def head_inputs_and_unknown(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Computes the head's inputs [B, d] float32 and the output `unknown` [B] float32 for images.

        The file must not have a fixed batch size.
        """
        head_inputs, unknown = self._compute([HEAD_INPUTS, UNKNOWN], images)
        return head_inputs, unknown[:, 0]

    def _compute(self, names: Sequence[str], images: Pixels) -> list[NDArray[np.float32]]:
        try:
            found: list[NDArray[np.float32]] = self._session.run(names, {INPUT: images})
        except Exception as error:  # ONNX Runtime's own errors, as above
            raise ExportError(
                f"{self._where} cannot be run by ONNX Runtime: {first_line(error)}; {_WHAT_TO_DO}"
            ) from None
        return found

    def _run(self, images: Pixels) -> Outputs:
        logits, probabilities, unknown = self._compute([LOGITS, PROBABILITIES, UNKNOWN], images)
        classes = len(self.class_names)
        columns = ((logits, self._outputs), (probabilities, self._outputs), (unknown, 1))
        if classes > self._outputs or any(
            output.shape != (len(images), count) or output.dtype != np.float32 for output, count in columns
        ):
            raise ExportError(f"{self._where} does not give a number for each of its classes; {_WHAT_TO_DO}")
        return Outputs(logits[:, :classes], probabilities[:, :classes], unknown[:, 0])

    def predict(
        self, photos: PhotoSet, *, on_progress: ProgressCallback = ignore_progress
    ) -> NDArray[np.int64]:
        """Predicts the class_index of the best class for each photo [M] int64.

        Args:
            photos: Photos to classify.
            on_progress: Function that is called before each photo.
        """
        return self.rank(photos, 1, on_progress=on_progress)[:, 0]

    def rank(
        self, photos: PhotoSet, top_k: int, *, on_progress: ProgressCallback = ignore_progress
    ) -> NDArray[np.int64]:
        """Ranks the best classes for each photo; returns each one's class_index [M, up to top_k] int64.

        Args:
            photos: Photos to classify.
            top_k: Number of classes for each photo, best first.
            on_progress: Function that is called before each photo.
        """
        count = len(photos.photos)
        report = StepReporter("evaluate", count, on_progress)
        batches = (range(count)[start : start + _BATCH_SIZE] for start in range(0, count, _BATCH_SIZE))
        logits = (self.run(photos.load(batch, report=report))[0] for batch in batches)
        best = [np.argsort(-rows, axis=1, kind="stable")[:, :top_k] for rows in logits]
        return np.concatenate(best).astype(np.int64)

    @explains_os_failures
    def classify(
        self,
        photos: AnyPhoto | Iterable[AnyPhoto],
        top_k: int = 3,
        *,
        keep: float = KEPT,
        on_progress: ProgressCallback = ignore_progress,
    ) -> tuple[Prediction, ...]:
        """Ranks the best classes for each photo; a photo that cannot be read gets an error instead.

        Args:
            photos: One photo or several, each in any form that `prepare_photo` takes: a path, bytes, an open
                file, a PIL image or an array of any size.
            top_k: Number of classes for each photo, best first.
            keep: Share of known photos that are not to be called unknown, one of `terms.SHARES`.
            on_progress: Function that is called before each photo.

        Raises:
            ConfigError: A photo is of a type that is not accepted, or a setting is out of range.
        """
        given = photos_in(photos)
        if keep not in SHARES:
            raise ConfigError(f"cannot keep {keep:g} of known photos; choose {listed_shares()}")
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ConfigError(f"top_k is the number of classes for each photo, at least 1, not {top_k!r}")
        threshold = self.calibration.threshold(keep)
        report = StepReporter("features", len(given), on_progress)
        predictions: list[Prediction] = []
        for start in range(0, len(given), _BATCH_SIZE):
            predictions += self._classify_batch(given[start : start + _BATCH_SIZE], top_k, threshold, report)
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


def _identity(path: Path | None) -> tuple[str, int, int, int] | None:
    """Returns what distinguishes a file from any other that takes its place; None if there is no file."""
    if path is None:
        return None
    try:
        status = path.stat()
        return os.path.realpath(path), status.st_ino, status.st_mtime_ns, status.st_size
    except (OSError, ValueError):
        return None


def open_session(model: Path | bytes) -> Any:
    """Opens an ONNX file, or its content, in ONNX Runtime on the CPU; raises whatever ONNX Runtime raises."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, not printed on the user's terminal
    options.intra_op_num_threads = usable_processors()  # by default, one for each core of the machine
    with freed_memory_kept(True):  # loading frees much memory, only to take it again
        return onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )


def _for_onnx_runtime(path: Path) -> Path | bytes:
    """Returns a path or, if ONNX Runtime would misread the name, the file's content."""
    return path if printable(path) == str(path) else inspection.read_regular(path)


def _shapes(session: Any) -> tuple[int, int | None]:
    """Returns a file's number of logits (more than it has classes, if its head is fixed) and its batch size.

    Raises:
        ValueError: The number of outputs is not fixed.
    """
    batch, *_ = session.get_inputs()[0].shape
    _, outputs = next(output.shape for output in session.get_outputs() if output.name == LOGITS)
    if not isinstance(outputs, int):
        raise ValueError("its number of classes is not fixed")
    return outputs, batch if isinstance(batch, int) else None

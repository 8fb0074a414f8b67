"""Loads an exported ONNX file, and runs it through ONNX Runtime on prepared images, without torch.

Everything needed is in the file: class names, preprocessing, the model's digest and the thresholds for
unknown objects are in its metadata (https://onnx.ai/onnx/repo-docs/IR.html, metadata_props).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from .. import inspection
from ..errors import ConfigError, ExportError, explains_os_failures, first_line, is_about_access
from ..freed_memory import freed_memory_kept
from ..photos.pixels import Pixels
from ..photos.preprocessing import Preprocessing
from ..processors import usable_processors
from ..records import absolute, printable
from .unknown import Calibration

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from 3.11 on

CLASS_NAMES_KEY = "class_names"
PREPROCESSING_KEY = "preprocessing"
DIGEST_KEY = "model_digest"
INPUT = "image"
LOGITS, PROBABILITIES, HEAD_INPUTS = "logits", "probabilities", "head_inputs"
UNKNOWN = "unknown"
"""Name of an output, and of the metadata entry that contains the output's thresholds."""

_WHAT_TO_DO = "rebuild it with lwm-edge repair (in a model home) or lwm-edge export"
_IN_A_HOME = "current/classifier.onnx"
_NAMES = TypeAdapter(tuple[str, ...])


class Outputs(NamedTuple):
    """Holds a model's outputs for some images.

    Attributes:
        logits: Logits [B, classes] float32.
        probabilities: Probabilities [B, classes] float32.
        unknown: Score [B] float32 that is higher the less an image resembles any class.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    unknown: NDArray[np.float32]


class OnnxFile:
    """Loads an exported ONNX file once, and runs it as often as it is needed.

    Attributes:
        path: Path of the ONNX file; None if its content was given.
        class_names: Class names in the order of the outputs.
        preprocessing: Preprocessing that turns a photo into the input.
        model_digest: Digest of the model that was exported.
        calibration: Thresholds of the score for unknown objects.
        static_batch: Number of images that every batch must have; None if a batch may have any number.

    Args:
        source: Path of the ONNX file, or the file's content.

    Raises:
        ExportError: There is no such file, it is damaged, or lwm-edge did not export it.
        ConfigError: The source is neither a path nor bytes.
    """

    @explains_os_failures
    def __init__(self, source: str | PathLike[str] | bytes) -> None:
        self.path = None if isinstance(source, bytes) else absolute(source)
        self._loaded = _identity(self.path)  # before the file is read, so that no replacement is missed
        where = self._where = self.path or "the exported ONNX file"
        if self.path and not self.path.is_file():
            if os.path.lexists(self.path):
                what = inspection.kind_at(self.path, follow=True)
                raise ExportError(f"{where} is {what}; give the ONNX file, such as HOME/{_IN_A_HOME}")
            raise ExportError(f"{where} does not exist; {_WHAT_TO_DO}")
        try:
            if self.path:
                inspection.open_regular(self.path).close()  # says why a file may not be read; ORT does not
            self._session: Any = open_session(
                source if isinstance(source, bytes) else _for_onnx_runtime(absolute(source))
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.class_names: tuple[str, ...] = _NAMES.validate_json(metadata[CLASS_NAMES_KEY])
            self.preprocessing = Preprocessing.model_validate_json(metadata[PREPROCESSING_KEY])
            self.model_digest: str = metadata[DIGEST_KEY]
            self.calibration = Calibration.model_validate_json(metadata[UNKNOWN])
            self._outputs, self.static_batch = _shapes(self._session)
        except (KeyError, ValueError):
            raise ExportError(
                f"{where} was not exported by lwm-edge, or is damaged: its metadata is missing or faulty; "
                f"{_WHAT_TO_DO}"
            ) from None
        except Exception as error:  # ONNX Runtime's own errors derive from Exception alone
            if is_about_access(error):
                raise
            raise ExportError(
                f"{where} cannot be loaded by ONNX Runtime: {first_line(error)}; {_WHAT_TO_DO}"
            ) from None

    @property
    def stale(self) -> bool:
        """Returns whether the path now leads to another file, as it does in a model home after each change.

        Asking is cheap, as no file is read. A missing file does not make the classifier stale. A classifier
        made from bytes is never stale.
        """
        now = _identity(self.path)
        return now is not None and now != self._loaded

    @explains_os_failures
    def reload(self) -> None:
        """Loads the file that the path leads to now; if that fails, the classifier stays as it was.

        Other threads may use the classifier meanwhile: a call ends with the model that it
        began with.

        Raises:
            ExportError: There is no such file, it is damaged, or lwm-edge did not export it.
            ConfigError: The classifier was made from bytes, so there is no file to load.
        """
        if self.path is None:
            raise ConfigError("this classifier was made from bytes; make another one from the new content")
        loaded = type(self)(self.path)
        self.__dict__ = {**vars(self), **vars(loaded)}  # in one step, for other threads

    def as_loaded(self) -> Self:
        """Returns an object that shares the attributes of this one until another thread reloads this one."""
        same = object.__new__(type(self))
        same.__dict__ = self.__dict__
        return same

    def run(self, images: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Runs the model on prepared images as `outputs` does, but returns only logits and probabilities."""
        logits, probabilities, _ = self.outputs(images)
        return logits, probabilities

    def outputs(self, images: Pixels) -> Outputs:
        """Runs the model on prepared images.

        Args:
            images: RGB images at the model's size [B, H, W, 3] uint8; there may be any number of them, even
                if the file was exported for a single batch size.

        Raises:
            ConfigError: The images have another shape or type.
            ExportError: ONNX Runtime cannot run the file, or the shape or type of an output is wrong.
        """
        file, images = self.as_loaded(), np.asarray(images)
        file._require_prepared(images)
        if not file.static_batch or len(images) == file.static_batch:
            return file._run(images)
        full = max(1, -(-len(images) // file.static_batch)) * file.static_batch
        padded = np.resize(images, (full, *images.shape[1:]))
        batches = [file._run(batch) for batch in np.split(padded, full // file.static_batch)]
        return Outputs(*(np.concatenate(parts)[: len(images)] for parts in zip(*batches, strict=True)))

    def _require_prepared(self, images: Pixels) -> None:
        size = self.preprocessing.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise ConfigError(
                f"images must be RGB images [B, {size}, {size}, 3] of uint8, not "
                f"{list(images.shape)} of {images.dtype}; convert them, or call classify instead"
            )

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


def _identity(path: Path | None) -> tuple[str, int, int, int] | None:
    """Returns a key that tells a file from any other in the same place; None if there is no file."""
    if path is None:
        return None
    try:
        status = path.stat()
        return os.path.realpath(path), status.st_ino, status.st_mtime_ns, status.st_size
    except (OSError, ValueError):
        return None


def open_session(model: Path | bytes, *, save_optimized: Path | None = None) -> Any:
    """Opens an ONNX file, or its content, in ONNX Runtime on the CPU; raises whatever ONNX Runtime raises.

    Args:
        model: Path or content of the file.
        save_optimized: Path of a file to write: the model with BatchNormalization folded into convolutions,
            but without the changes that ONNX Runtime would make only for this machine's processor.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if save_optimized is not None:
        options.optimized_model_filepath = str(save_optimized)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4  # errors are raised, so ONNX Runtime need not print them
    options.intra_op_num_threads = usable_processors()  # by default, one for each core of the machine
    with freed_memory_kept(True):  # loading frees a lot of memory, but soon needs it again
        return onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )


def _for_onnx_runtime(path: Path) -> Path | bytes:
    """Returns a path or, if ONNX Runtime would misread the name, the file's content."""
    return path if printable(path) == str(path) else inspection.read_regular(path)


def _shapes(session: Any) -> tuple[int, int | None]:
    """Returns the number of logits (a fixed head may have more than there are classes) and the batch size.

    Raises:
        ValueError: The number of outputs is not fixed.
    """
    batch, *_ = session.get_inputs()[0].shape
    _, outputs = next(output.shape for output in session.get_outputs() if output.name == LOGITS)
    if not isinstance(outputs, int):
        raise ValueError("its number of classes is not fixed")
    return outputs, batch if isinstance(batch, int) else None

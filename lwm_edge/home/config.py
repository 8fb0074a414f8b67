"""Defines the form of an exported ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..records import Settings


class ExportConfig(Settings):
    """Defines the form of an exported ONNX file; by default it is the home's classifier.onnx.

    Raises:
        ConfigError: Some settings are out of range; every one of them is listed.
    """

    precision: Literal["float32", "fp16", "int8"] = "float32"
    """Precision of the backbone: float32, fp16 or int8; the last two are compared on photos."""
    float_weights: bool = False
    """Whether int8 keeps its weights in float32, quantised when the file loads, as TensorRT needs it."""
    static_batch: int | None = Field(default=None, ge=1, le=256)
    """Number of images in every batch; unless set, any number."""
    fixed_head: bool = False
    """Whether to give the file an output for each class that it can hold, so that no shape ever changes."""
    photos: Path | None = None
    """Folder with one sub-folder of photos per class, to compare on; half of them calibrate int8."""
    force: bool = False
    """Whether to write a form even if it differs from the classifier on too many of the photos."""

    @model_validator(mode="after")
    def _parts_fit(self) -> ExportConfig:
        if self.precision != "float32" and not self.photos:
            raise ValueError(f"{self.precision} needs photos to be compared on")
        if self.float_weights and self.precision != "int8":
            raise ValueError("float_weights are a form of int8, so give that as well")
        return self

    @property
    def is_plain(self) -> bool:
        """Returns whether the form is the home's classifier.onnx itself."""
        return self.precision == "float32" and self.static_batch is None and not self.fixed_head

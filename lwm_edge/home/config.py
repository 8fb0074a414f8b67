"""Defines the form of an exported ONNX file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..records import ExactPath, Settings


class ExportConfig(Settings):
    """Defines the form of an exported ONNX file; by default it is the home's classifier.onnx.

    Raises:
        ConfigError: Some settings are out of range; every one of them is listed.
    """

    precision: Literal["float32", "fp16", "int8"] = "float32"
    """Precision of the backbone: float32, fp16 or int8; the last two are checked on photos."""
    float_weights: bool = False
    """Whether to keep int8 weights in float32, quantised when the file loads, as TensorRT requires."""
    static_batch: int | None = Field(default=None, ge=1, le=256)
    """Number of images in every batch; unless set, a batch may hold any number."""
    fixed_head: bool = False
    """Whether to give the file an output for each class that fits in the bundle, so that shapes are fixed."""
    photos: ExactPath | None = None
    """Folder of class folders, with photos to compare on; half of the photos calibrate int8."""
    force: bool = False
    """Whether to write the file even if it differs from the classifier on too many photos."""

    @model_validator(mode="after")
    def _settings_fit(self) -> ExportConfig:
        if self.precision != "float32" and not self.photos:
            raise ValueError(f"{self.precision} must be checked on photos, so give a folder of them")
        if self.float_weights and self.precision != "int8":
            raise ValueError("float_weights applies only to int8, so choose int8 too")
        return self

    @property
    def is_plain(self) -> bool:
        """Returns whether the form is the home's classifier.onnx itself."""
        return self.precision == "float32" and self.static_batch is None and not self.fixed_head

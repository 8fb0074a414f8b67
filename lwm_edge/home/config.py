"""Defines which variant of a model's ONNX file is exported."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..records import ExactPath, Settings


class ExportConfig(Settings):
    """Defines which variant of the ONNX file is exported; the default is a home's classifier.onnx.

    Raises:
        ConfigError: Some settings cannot be used (every one of them is listed), or two do not fit together.
    """

    precision: Literal["float32", "fp16", "int8"] = "float32"
    """Precision of the backbone: float32, fp16 or int8; the last two are checked on photos."""
    float_weights: bool = False
    """Whether to keep an int8 file's weights in float32, to be quantised on loading, as TensorRT requires."""
    static_batch: int | None = Field(default=None, ge=1, le=256)
    """Number of images in every batch; if it is not set, a batch may have any number of images."""
    fixed_head: bool = False
    """Whether to give the file outputs for as many classes as there is room for, so that shapes are fixed."""
    photos: ExactPath | None = None
    """Folder of class folders, on whose photos the variant is checked; int8 is checked on half of the photos,
    and calibrated on up to 200 of the other half."""
    force: bool = False
    """Whether to write the file even if it differs from the original on too many photos."""

    @model_validator(mode="after")
    def _settings_fit(self) -> ExportConfig:
        if self.precision != "float32" and not self.photos:
            raise ValueError(f"{self.precision} must be checked on photos, so give a folder of photos")
        if self.float_weights and self.precision != "int8":
            raise ValueError("float_weights applies only to int8, so choose int8 as well")
        return self

    @property
    def is_plain(self) -> bool:
        """Returns whether this is the same file as a home's classifier.onnx."""
        return self.precision == "float32" and self.static_batch is None and not self.fixed_head

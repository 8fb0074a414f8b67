"""Says how a photo becomes a network's input."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ..records import Record


class Preprocessing(Record):
    """Describes how a photo becomes the network's input.

    `pixels.preprocess` scales and crops the photo; the network subtracts `mean` and divides by `std`.

    Attributes:
        image_size: Height and width of the network's input, in pixels.
        resize_size: Length of the photo's short side before the centre crop, in pixels.
        mean: Mean of each channel (R, G, B), subtracted after scaling pixels to 0..1.
        std: Standard deviation of each channel, by which the result is divided.
    """

    image_size: int = Field(ge=8, le=2048)
    resize_size: int = Field(ge=8, le=4096)
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocessing:
        if self.resize_size < self.image_size:
            raise ValueError("resize_size is smaller than image_size")
        return self

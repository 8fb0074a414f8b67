"""Chooses the preprocessing of a base: the architecture's, or the one that a classifier was trained with."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError
from ..model.architectures._torchvision import ImageClassification, models
from ..model.architectures.registry import Architecture
from ..photos.preprocessing import Preprocessing
from ..records import invalid
from .config import PackConfig


def scaled_preprocessing(default: Preprocessing, image_size: int | None) -> Preprocessing:
    """Returns the default preprocessing, scaled to images of another size if one is given."""
    if image_size is None:
        return default
    resize_size = round(image_size * default.resize_size / default.image_size)
    return default.model_copy(update={"image_size": image_size, "resize_size": resize_size})


def chosen_preprocessing(architecture: Architecture, config: PackConfig) -> tuple[Preprocessing, list[str]]:
    """Returns the preprocessing that a trained classifier needs, and warnings about it.

    Raises:
        ConfigError: The named weights do not exist or are not for a classifier of photos, or the settings
            are out of range or contradict each other.
    """
    default, warnings = architecture.preprocessing, []
    if config.preprocessing_of is not None:
        transforms = _transforms(config.preprocessing_of)
        default = Preprocessing(
            image_size=transforms.crop_size[0],
            resize_size=transforms.resize_size[0],
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )
        if transforms.interpolation.value != "bilinear":
            warnings.append(
                f"{config.preprocessing_of} expects {transforms.interpolation.value} interpolation, but "
                "lwm-edge always resizes with bilinear interpolation; check that the accuracy is as expected"
            )
    scaled = scaled_preprocessing(default, config.image_size).model_dump()
    given = {name: getattr(config, name) for name in ("mean", "std", "resize_size")}
    try:
        chosen = Preprocessing(**scaled | {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise invalid("this preprocessing cannot be used", error) from None
    return chosen, warnings


def _transforms(weights: str) -> Any:
    """Looks up the transforms that torchvision's weights of that name expect."""
    try:
        transforms = models.get_weight(weights).transforms()
    except (ValueError, AttributeError, KeyError):
        transforms = None
    if not isinstance(transforms, ImageClassification):
        raise ConfigError(
            f"torchvision has no weights {weights!r} for a classifier of photos; give a name such as "
            "ResNet18_Weights.IMAGENET1K_V1"
        )
    return transforms

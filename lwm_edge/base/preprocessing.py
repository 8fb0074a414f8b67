"""Chooses the preprocessing of a base: the architecture's, or the one that a classifier was trained with."""

from __future__ import annotations

from pydantic import ValidationError

from ..errors import ConfigError
from ..model.architectures._torchvision import models
from ..model.architectures.registry import Architecture
from ..photos.preprocessing import Preprocessing
from ..records import invalid
from .config import PackConfig


def scaled_preprocessing(architecture: Architecture, image_size: int | None) -> Preprocessing:
    """Returns an architecture's preprocessing, for images of another size if one is given."""
    default = architecture.preprocessing
    if image_size is None:
        return default
    resize_size = round(image_size * default.resize_size / default.image_size)
    return default.model_copy(update={"image_size": image_size, "resize_size": resize_size})


def chosen_preprocessing(architecture: Architecture, config: PackConfig) -> tuple[Preprocessing, list[str]]:
    """Returns the preprocessing that a trained classifier needs, and warnings about it.

    Raises:
        ConfigError: There are no such weights, or the settings contradict each other.
    """
    base, warnings = scaled_preprocessing(architecture, config.image_size), []
    if config.preprocessing_of:
        try:
            transforms = models.get_weight(config.preprocessing_of).transforms()
            base = Preprocessing(
                image_size=config.image_size or transforms.crop_size[0],
                resize_size=transforms.resize_size[0],
                mean=tuple(transforms.mean),
                std=tuple(transforms.std),
            )
        except (ValueError, AttributeError, KeyError):
            raise ConfigError(
                f"torchvision has no weights {config.preprocessing_of!r} of a classifier; name them as in "
                "ResNet18_Weights.IMAGENET1K_V1"
            ) from None
        if transforms.interpolation.value != "bilinear":
            warnings.append(
                f"{config.preprocessing_of} resize by {transforms.interpolation.value} interpolation, but "
                "lwm-edge always by bilinear; compare the accuracy with what you know"
            )
    given = {name: getattr(config, name) for name in ("mean", "std", "resize_size")}
    try:
        return Preprocessing(
            **base.model_dump() | {n: v for n, v in given.items() if v is not None}
        ), warnings
    except ValidationError as error:
        raise invalid("this preprocessing cannot be used", error) from None

"""Holds the photos and class names that a base is made from; checks its capacity and where it is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import outputs
from ..errors import CapacityError, ConfigError
from ..learning.discriminant import Labels
from ..photos.photo_set import PhotoSet
from .config import BundleConfig

PIXEL_CACHE_BYTES = 1024 * 1024 * 1024  # a base is made on a vendor's workstation


@dataclass(frozen=True)
class Material:
    """Holds the photos and class names that a base is made from.

    Attributes:
        class_names: Names of the classes in class_index order.
        learnt: Photos that the network learns from, or has learnt from.
        unseen: Photos that the network never sees; there may be none.
        for_statistics: Photos to make the statistics from, instead of the learnt ones; there may be none.
        warnings: Warnings so far, such as those about files that were left out.
    """

    class_names: tuple[str, ...]
    learnt: PhotoSet
    unseen: PhotoSet
    for_statistics: PhotoSet
    warnings: tuple[str, ...] = ()

    @property
    def unseen_labels(self) -> Labels:
        """Returns the class_index of each unseen photo."""
        return np.array(self.unseen.labels, dtype=np.int64)


def check_capacity(classes: int, config: BundleConfig) -> None:
    """Refuses more classes than the bundle will have room for.

    Raises:
        CapacityError: There are more classes than the capacity allows.
    """
    if classes > config.capacity:
        raise CapacityError(f"there are {classes} classes, but the capacity is {config.capacity}")


def check_output(output: Path, *inputs: Path | None) -> None:
    """Refuses an output that cannot be written, or that lies among the files that the base is made from.

    Args:
        output: Path of the bundle.
        inputs: Paths of files that are read, and of folders whose class folders are read.

    Raises:
        ConfigError: The output cannot be written, is a file that is read, or lies in a class folder.
    """
    outputs.check_output(output)
    place = Path(os.path.realpath(output))  # unlike resolve(), it tolerates a link that leads to itself
    for path in (Path(os.path.realpath(path)) for path in inputs if path):
        if place == path or (place.is_relative_to(path) and place.parent != path):
            where = "is read to make the base" if place == path else f"lies in a class folder of {path}"
            raise ConfigError(f"{output} {where}; write the base elsewhere")

"""Makes varied copies of a network's training photos, for statistics if no other photos are given."""

from __future__ import annotations

import numpy as np

from ..photos.photo_set import Photo, PhotoSet, augmentation_generator
from ..photos.pixels import Pixels
from ..records import StepReporter

COPIES = 2
"""Number of varied copies of each photo."""
_LIGHT = 0.4  # largest change of brightness, contrast and saturation, as a share


class _VariedPhotos(PhotoSet):
    """Holds photos that are shifted, mirrored and lit at random."""

    def _load(self, photo: Photo, epoch: int | None, report: StepReporter) -> Pixels:
        pixels = super()._load(photo, epoch, report)
        if self.augmentation_seed is None or epoch is None:
            return pixels
        return relight(pixels, augmentation_generator(self.augmentation_seed + 1, epoch, photo))


def relight(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Changes a photo's brightness, contrast and saturation at random.

    Args:
        pixels: Pixels of the photo [H, W, 3] uint8.
        generator: Random generator that decides the size of each change.

    Returns:
        The changed pixels [H, W, 3] uint8.
    """
    brightness, contrast, saturation = generator.uniform(1 - _LIGHT, 1 + _LIGHT, 3)
    lit = pixels * brightness
    lit = lit.mean() + contrast * (lit - lit.mean())
    grey = lit.mean(2, keepdims=True)
    lit = grey + saturation * (lit - grey)
    result: Pixels = lit.round().clip(0, 255).astype(np.uint8)
    return result


def varied_photos(photos: PhotoSet) -> PhotoSet:
    """Makes a set of the same photos, each of which looks different in every epoch."""
    return _VariedPhotos(photos.photos, photos.preprocessing, photos.cache, augmentation_seed=0)

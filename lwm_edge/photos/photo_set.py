"""Photos to learn from: kept in memory as far as there is room, and augmented.

Photos are read where they lie; none is copied or kept on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import PhotosError
from .preprocessing import Preprocessing
from .reading import Pixels, read_photo

_SHIFT = 1 / 8  # of the image's side, the most that augmentation moves it


@dataclass(frozen=True)
class Photo:
    """One usable photo.

    Attributes:
        path: Where it lies.
        label: class_index that it teaches.
        digest: SHA-256 of the file.
    """

    path: Path
    label: int
    digest: str


@dataclass
class PixelCache:
    """Prepared photos kept in memory, up to a limit; the rest is read again each time.

    Attributes:
        limit_bytes: Of the pixels held.
    """

    limit_bytes: int
    _held: dict[Path, Pixels] = field(default_factory=dict)
    _bytes: int = 0

    def read(self, path: Path, preprocessing: Preprocessing) -> Pixels:
        """As `read_photo`, from memory where it is there."""
        pixels = self._held.get(path)
        if pixels is None:
            pixels = read_photo(path, preprocessing)
            if self._bytes + pixels.nbytes <= self.limit_bytes:
                self._held[path] = pixels
                self._bytes += pixels.nbytes
        return pixels

    @property
    def held_bytes(self) -> int:
        """Bytes of the pixels held now."""
        return self._bytes

    def limit(self, limit_bytes: int) -> None:
        """Sets another limit, and lets go of the photos read last as far as they are too many for it."""
        self.limit_bytes = limit_bytes
        while self._bytes > limit_bytes:
            _, pixels = self._held.popitem()
            self._bytes -= pixels.nbytes

    def forget(self) -> None:
        """Lets go of all photos."""
        self._held.clear()
        self._bytes = 0


def augment(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Shifts by up to an eighth (mirrored at the edge) and flips left and right every second time.

    Args:
        pixels: [H, W, 3] uint8.
        generator: Decides; see `augmentation_generator`.

    Returns:
        [H, W, 3] uint8.
    """
    height, width, _ = pixels.shape
    most = round(height * _SHIFT)
    down, right = generator.integers(0, 2 * most + 1, size=2)
    padded = np.pad(pixels, ((most, most), (most, most), (0, 0)), mode="reflect")
    shifted = padded[down : down + height, right : right + width]
    return shifted[:, ::-1] if generator.integers(2) else shifted


def augmentation_generator(seed: int, epoch: int, photo: Photo) -> np.random.Generator:
    """Keyed by seed, epoch and photo, so that order, batching and resuming change nothing."""
    return np.random.default_rng([seed, epoch, int(photo.digest[:16], 16)])


@dataclass(frozen=True)
class PhotoSet:
    """Photos in a fixed order, as a network sees them.

    Attributes:
        photos: The photos.
        preprocessing: The model's.
        cache: Keeps what was decoded.
        augmentation_seed: None never augments.
    """

    photos: Sequence[Photo]
    preprocessing: Preprocessing
    cache: PixelCache
    augmentation_seed: int | None = None

    @property
    def labels(self) -> list[int]:
        """class_index of each photo."""
        return [photo.label for photo in self.photos]

    def load(self, indices: Sequence[int], epoch: int | None = None) -> Pixels:
        """Some photos [B, image_size, image_size, 3] uint8, as an epoch shows them, or as they are."""
        return np.stack([self._load(self.photos[i], epoch) for i in indices])

    def _load(self, photo: Photo, epoch: int | None) -> Pixels:
        try:
            pixels = self.cache.read(photo.path, self.preprocessing)
        except PhotosError as error:
            raise PhotosError(f"{photo.path} {error.message}; it changed since it was checked") from None
        if self.augmentation_seed is None or epoch is None:
            return pixels
        return augment(pixels, augmentation_generator(self.augmentation_seed, epoch, photo))

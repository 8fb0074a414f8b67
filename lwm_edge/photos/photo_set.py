"""Loads and augments photos for a network, and keeps as many in memory as there is room for.

Photos are read from where they are; no copy is written to the disk.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import PhotosError
from ..records import StepReporter, ignore_progress
from .guard import wait_on
from .pixels import Pixels
from .preprocessing import Preprocessing
from .reading import read_photo

_MAX_SHIFT = 1 / 8  # largest shift of an image, as a share of its side


@dataclass(frozen=True)
class Photo:
    """Describes one usable photo.

    Attributes:
        path: Path of the photo.
        label: Index of the photo's class, usually the class_index.
        digest: Digest of the file (SHA-256).
    """

    path: Path
    label: int
    digest: str


def digest_of(digests: Iterable[str]) -> str:
    """Returns one digest of several photos, given the digest of each; their order does not matter."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def split_held_back(
    photos: Sequence[Photo], share: float, seed: int
) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """Splits one class's photos in two, by the content of the files and not by their names.

    Args:
        photos: Photos of the class; there must be at least one.
        share: Share of the photos to hold back, from 0 to 1.
        seed: Seed that decides which photos are held back.

    Returns:
        Photos to learn from (at least one) and photos held back (at least one, if there are two or more).
    """
    ranked = sorted(photos, key=lambda p: hashlib.sha256(f"{seed} {p.digest}".encode()).digest())
    count = min(max(1, round(len(ranked) * share)), len(ranked) - 1)
    return tuple(ranked[count:]), tuple(ranked[:count])


@dataclass
class PixelCache:
    """Keeps prepared photos in memory, up to a limit; other photos are read again each time.

    Attributes:
        limit_bytes: Largest number of bytes that the kept pixels may take.
    """

    limit_bytes: int
    _held: dict[Path, Pixels] = field(default_factory=dict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(
        self,
        path: Path,
        preprocessing: Preprocessing,
        limit_bytes: int | None = None,
        on_wait: Callable[[], None] = wait_on,
    ) -> Pixels:
        """Returns what `read_photo` returns, from memory if it is there."""
        pixels = self._held.get(path)
        if pixels is None:
            pixels = read_photo(path, preprocessing, limit_bytes, on_wait)
            with self._lock:
                if self._bytes + pixels.nbytes <= self.limit_bytes:
                    pixels = pixels.copy()  # what Pillow hands over takes more memory than the pixels need
                    pixels.flags.writeable = False
                    self._held[path] = pixels
                    self._bytes += pixels.nbytes
        return pixels

    @property
    def held_bytes(self) -> int:
        """Returns how many bytes the kept pixels take now."""
        return self._bytes

    def limit(self, limit_bytes: int) -> None:
        """Sets a new limit, and drops the photos that were added last until the others fit into it."""
        self.limit_bytes = limit_bytes
        while self._bytes > limit_bytes:
            _, pixels = self._held.popitem()
            self._bytes -= pixels.nbytes

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Drops all photos but these."""
        kept = set(paths)
        self._held = {path: pixels for path, pixels in self._held.items() if path in kept}
        self._bytes = sum(pixels.nbytes for pixels in self._held.values())

    def forget(self) -> None:
        """Drops all photos."""
        self.keep_only(())


def augment(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Shifts a photo by up to 1/8 of its side (with mirrored edges) and flips it left to right half the time.

    Args:
        pixels: Pixels of the photo [H, W, 3] uint8.
        generator: Random generator that decides on the shift and the flip; see `augmentation_generator`.

    Returns:
        The pixels [H, W, 3] uint8.
    """
    height, width, _ = pixels.shape
    max_shift = round(height * _MAX_SHIFT)
    down, right = generator.integers(0, 2 * max_shift + 1, size=2)
    padded = np.pad(pixels, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)), mode="reflect")
    shifted = padded[down : down + height, right : right + width]
    return shifted[:, ::-1] if generator.integers(2) else shifted


def augmentation_generator(seed: int, epoch: int, photo: Photo) -> np.random.Generator:
    """Makes a generator from seed, epoch and photo, so order, batches and resuming make no difference."""
    return np.random.default_rng([seed, epoch, int(photo.digest[:16], 16)])


@dataclass(frozen=True)
class PhotoSet:
    """Holds photos in a fixed order, and loads them as a network sees them.

    Attributes:
        photos: Photos of the set.
        preprocessing: Preprocessing of the model.
        cache: Cache that keeps prepared photos.
        augmentation_seed: Seed of the augmentation; None if photos are never augmented.
    """

    photos: Sequence[Photo]
    preprocessing: Preprocessing
    cache: PixelCache
    augmentation_seed: int | None = None

    @property
    def labels(self) -> list[int]:
        """Returns the label of each photo."""
        return [photo.label for photo in self.photos]

    def load(
        self, indices: Sequence[int], epoch: int | None = None, report: StepReporter | None = None
    ) -> Pixels:
        """Loads photos [B, image_size, image_size, 3] uint8.

        Args:
            indices: Indices of the photos.
            epoch: Epoch to augment the photos for; None leaves them as they are.
            report: Reporter that is called before each photo, and repeatedly while a photo is slow to read.

        Raises:
            PhotosError: A photo can no longer be read.
        """
        report = report or StepReporter("photos", len(indices), ignore_progress)
        return np.stack([self._load(self.photos[i], epoch, report) for i in indices])

    def _load(self, photo: Photo, epoch: int | None, report: StepReporter) -> Pixels:
        report()
        try:
            pixels = self.cache.read(photo.path, self.preprocessing, on_wait=report.again)
        except PhotosError as error:
            raise PhotosError(f"{photo.path} {error.message}; it could be read when it was checked") from None
        if self.augmentation_seed is None or epoch is None:
            return pixels
        return augment(pixels, augmentation_generator(self.augmentation_seed, epoch, photo))

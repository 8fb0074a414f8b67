"""Photos: decoded, prepared for the network, and augmented.

`preprocess` is the only way from a photo to the network's input, in training, evaluation and prediction.
Photos are read where they lie; none is copied or kept on disk.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import PhotosError
from .manifest import Preprocessing

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 64_000_000  # decoded; Pillow takes four bytes for each
MAX_BUFFERED_PIXELS = 20_000_000  # of progressive JPEG and WebP, whose decoders hold several copies
MAX_FILE_BYTES = 256 * 1024 * 1024
AS_THEY_ARE = -1  # the "epoch" in which photos are not augmented
_COARSE = 2  # times the wanted side, to which large photos are brought quickly before they are scaled
_STRIP_ROWS = 256  # of the photo
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

    def forget(self) -> None:
        """Lets go of all photos."""
        self._held.clear()
        self._bytes = 0


def read_photo(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Decodes a photo (JPEG, PNG, WebP or BMP) to the network's input.

    Returns:
        RGB [image_size, image_size, 3] uint8.

    Raises:
        PhotosError: Unreadable, truncated, oversized or no such photo; the message is the reason alone.
    """
    check_photo_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters raises
            with Image.open(path, formats=FORMATS) as image:
                _check_pixels(image)
                wanted = preprocessing.resize_size * _COARSE
                image.draft("RGB", (wanted, wanted))  # a JPEG decodes straight to near this size
                return preprocess(image, preprocessing)
    except UnidentifiedImageError:
        raise PhotosError("is not a JPEG, PNG, WebP or BMP image") from None
    except Image.DecompressionBombError:
        raise PhotosError(f"has more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except PhotosError:
        raise
    except PermissionError:
        raise PhotosError("may not be read (permission denied)") from None
    except MemoryError:
        raise PhotosError("does not fit into memory") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise PhotosError(f"is damaged ({' '.join(str(error).split())[:120]})") from None


def check_photo_file(path: Path) -> None:
    """Raises a PhotosError where a file is no regular one, empty or too large to open."""
    try:
        status = path.stat()
    except OSError as error:
        raise PhotosError(f"cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise PhotosError("is not a regular file")
    if status.st_size == 0:
        raise PhotosError("is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise PhotosError(f"is larger than {MAX_FILE_BYTES // 2**20} MiB")


def _check_pixels(image: Image.Image) -> None:
    """By what the file declares, before anything is decoded."""
    kind = "progressive JPEG" if "progressive" in image.info else str(image.format)
    buffered = kind in ("progressive JPEG", "WEBP")
    most = MAX_BUFFERED_PIXELS if buffered else MAX_PIXELS
    if image.width * image.height > most:
        more = f"has more than {most // 1_000_000} megapixels"
        raise PhotosError(f"{more}, the most for a {kind} file" if buffered else more)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Rotates as EXIF says, converts to RGB, scales the short side and cuts out the centre.

    Returns:
        RGB [image_size, image_size, 3] uint8.
    """
    image = ImageOps.exif_transpose(_rgb_near(image, preprocessing.resize_size * _COARSE))
    size, short = preprocessing.image_size, min(image.size)
    if short != preprocessing.resize_size:
        scale = preprocessing.resize_size / short
        width, height = (max(preprocessing.resize_size, round(side * scale)) for side in image.size)
        if max(width, height) > 50 * preprocessing.resize_size:
            raise PhotosError("is more than fifty times as long as wide")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


def _rgb_near(image: Image.Image, side: int) -> Image.Image:
    """The photo in RGB, averaged down by the whole factor that leaves its short side `side` or more.

    Strip by strip, so that no second copy of a large photo is made.
    """
    factor = min(image.size) // side
    if factor < 2:
        return _to_rgb(image)
    width, height = (-(-length // factor) for length in image.size)
    reduced = Image.new("RGB", (width, height))
    rows = max(1, _STRIP_ROWS // factor) * factor
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(image.height, top + rows)))
        reduced.paste(_to_rgb(strip).reduce(factor), (0, top // factor))
    reduced.info = image.info  # the orientation
    return reduced


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # grey of 16 bits
        values = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


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

    def load(self, indices: Sequence[int], epoch: int = AS_THEY_ARE) -> Pixels:
        """Those photos as the epoch shows them [B, image_size, image_size, 3] uint8."""
        return np.stack([self._load(self.photos[i], epoch) for i in indices])

    def _load(self, photo: Photo, epoch: int) -> Pixels:
        try:
            pixels = self.cache.read(photo.path, self.preprocessing)
        except PhotosError as error:
            raise PhotosError(f"{photo.path} {error.message}; it changed since it was checked") from None
        if self.augmentation_seed is None or epoch == AS_THEY_ARE:
            return pixels
        return augment(pixels, augmentation_generator(self.augmentation_seed, epoch, photo))

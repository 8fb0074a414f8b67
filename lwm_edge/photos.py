"""Photos: read from class folders, checked, prepared for the network, and augmented.

`preprocess` is the only way from a photo to the network's input, in training, evaluation and prediction.
Photos are read where they lie; none is copied or kept on disk.
"""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import PhotosError
from .manifest import Preprocessing, class_name_problem, fold_class_name, normalise_class_name

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 64_000_000  # decoded; 192 MB of RGB
MAX_FILE_BYTES = 256 * 1024 * 1024
AS_THEY_ARE = -1  # the "epoch" in which photos are not augmented
_LISTED_FILES = 20  # of one kind of problem, before the rest is counted
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


@dataclass(frozen=True)
class PhotoFolder:
    """What a folder of class folders holds.

    Attributes:
        class_names: Of the sub-folders, sorted, Unicode form NFC.
        photos: Of each class, in the same order; labels count from `first_label`.
        skipped: A line for each file left out, with the reason.
    """

    class_names: tuple[str, ...]
    photos: tuple[tuple[Photo, ...], ...]
    skipped: tuple[str, ...]


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


def read_photo(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Decodes a photo (JPEG, PNG, WebP or BMP) to the network's input.

    Returns:
        RGB [image_size, image_size, 3] uint8.

    Raises:
        PhotosError: Unreadable, truncated, oversized or no such photo; the message is the reason alone.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters raises
            with Image.open(path, formats=FORMATS) as image:
                wanted = preprocessing.resize_size * 2
                image.draft("RGB", (wanted, wanted))  # a JPEG decodes straight to near this size
                if image.width * image.height > MAX_PIXELS:
                    raise PhotosError(f"has more than {MAX_PIXELS // 1_000_000} megapixels")
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


def _check_file(path: Path) -> None:
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


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Rotates as EXIF says, converts to RGB, scales the short side and cuts out the centre.

    Returns:
        RGB [image_size, image_size, 3] uint8.
    """
    image = _to_rgb(ImageOps.exif_transpose(image))
    size, short = preprocessing.image_size, min(image.size)
    if short != preprocessing.resize_size:
        scale = preprocessing.resize_size / short
        width, height = (max(preprocessing.resize_size, round(side * scale)) for side in image.size)
        if max(width, height) > 50 * preprocessing.resize_size:
            raise PhotosError("is more than fifty times as long as wide")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # grey of 16 bits
        values = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image.convert("RGB")


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
        pixels = self.cache.read(photo.path, self.preprocessing)
        if self.augmentation_seed is None or epoch == AS_THEY_ARE:
            return pixels
        return augment(pixels, augmentation_generator(self.augmentation_seed, epoch, photo))


def split_held_back(
    photos: Sequence[Photo], share: float, seed: int
) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """Splits one class's photos by content, whatever the files are called.

    Returns:
        Photos to learn from, and the held-back share (at least one).
    """
    ranked = sorted(photos, key=lambda p: hashlib.sha256(f"{seed} {p.digest}".encode()).digest())
    count = max(1, round(len(ranked) * share))
    return tuple(ranked[count:]), tuple(ranked[:count])


def read_photo_folder(
    folder: Path,
    preprocessing: Preprocessing,
    cache: PixelCache,
    *,
    least_photos: int,
    known_classes: Sequence[str] = (),
    first_label: int = 0,
) -> PhotoFolder:
    """Reads a folder with one sub-folder a class, decoding every photo once.

    Args:
        folder: The folder.
        preprocessing: The model's.
        cache: Keeps what was decoded.
        least_photos: Fewest usable photos a class.
        known_classes: What the model knows already; a folder of such a class is refused.
        first_label: class_index of the first class found.

    Raises:
        PhotosError: With every problem that keeps the folder from being learnt.
    """
    folders = class_folders(folder)
    problems = _name_problems([path.name for path in folders], known_classes)
    skipped: list[str] = []
    classes: list[tuple[Photo, ...]] = []
    seen: dict[str, Path] = {}
    for label, path in enumerate(folders, start=first_label):
        photos, reasons = _read_class(path, label, preprocessing, cache, seen)
        if len(photos) < least_photos:
            usable = f"{len(photos)} usable photos; at least {least_photos} are needed"
            problems += [f"{_printable(path.name)}: {usable}", *reasons]
        skipped += reasons
        classes.append(photos)
    if problems:
        raise PhotosError(f"{folder} cannot be learnt from", problems)
    return PhotoFolder(tuple(normalise_class_name(f.name) for f in folders), tuple(classes), tuple(skipped))


def class_folders(folder: Path) -> list[Path]:
    """The class folders in a folder, sorted by normalised name; hidden ones are passed over.

    Raises:
        PhotosError: No such folder, or no sub-folders.
    """
    try:
        folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except FileNotFoundError:
        raise PhotosError(f"{folder} does not exist; give a folder with one sub-folder a class") from None
    except NotADirectoryError:
        raise PhotosError(f"{folder} is not a folder; give a folder with one sub-folder a class") from None
    except PermissionError:
        raise PhotosError(f"{folder} may not be read; check its permissions") from None
    if not folders:
        raise PhotosError(f"{folder} has no sub-folders; put each class's photos into a folder of its name")
    return sorted(folders, key=lambda path: normalise_class_name(path.name))


def _name_problems(names: Iterable[str], known_classes: Collection[str]) -> list[str]:
    problems = []
    known = {fold_class_name(name): name for name in known_classes}
    seen: dict[str, str] = {}
    for raw in names:
        name, folded = normalise_class_name(raw), fold_class_name(raw)
        if why := class_name_problem(name):
            problems.append(f"{raw!r} cannot be a class name: it {why}")
        if folded in known:
            problems.append(
                f"{_printable(raw)}: the model already knows the class {known[folded]}; to teach it anew, "
                f"remove it (lwm-edge remove-class {known[folded]!r}) and add it again with all its photos"
            )
        if folded in seen:
            problems.append(f"{raw!r} and {seen[folded]!r} are the same class name; merge the two folders")
        seen[folded] = raw
    return problems


def _read_class(
    folder: Path, label: int, preprocessing: Preprocessing, cache: PixelCache, seen: dict[str, Path]
) -> tuple[tuple[Photo, ...], list[str]]:
    photos, reasons = [], []
    try:
        paths = photo_files(folder)
    except OSError as error:
        return (), [f"{_printable(folder.name)} cannot be read ({error.strerror})"]
    for path in paths:
        shown = _shown(path)
        try:
            _check_file(path)  # first, because a link that leads to itself cannot be resolved
            if not path.resolve().is_relative_to(folder.resolve().parent):
                raise PhotosError("is a link out of the folder")
            cache.read(path, preprocessing)
            digest = _file_digest(path)
        except PhotosError as error:
            reasons.append(f"{shown} {error.message}")
            continue
        if digest in seen:
            reasons.append(f"{shown} is a duplicate of {_shown(seen[digest])}")
            continue
        seen[digest] = path
        photos.append(Photo(path, label, digest))
    return tuple(photos), _shortened(reasons)


def photo_files(folder: Path) -> list[Path]:
    """The files in a class folder, sorted by name; hidden ones and sub-folders are passed over."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


def _shown(path: Path) -> str:
    return _printable(f"{path.parent.name}/{path.name}")


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise PhotosError(f"cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _shortened(reasons: list[str]) -> list[str]:
    if len(reasons) <= _LISTED_FILES:
        return reasons
    return [*reasons[:_LISTED_FILES], f"and {len(reasons) - _LISTED_FILES} more files"]

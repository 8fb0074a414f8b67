"""Reads photos: decodes them within limits, and prepares them for the network.

`preprocess` is the only way from a photo to the network's input, in training, evaluation and prediction.
"""

from __future__ import annotations

import stat
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import PhotosError
from .preprocessing import Preprocessing

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 64_000_000  # decoded; Pillow takes four bytes for each
MAX_BUFFERED_PIXELS = 20_000_000  # for progressive JPEG and WebP, whose decoders hold several copies
MAX_FILE_BYTES = 256 * 1024 * 1024
_COARSE = 2  # large photos are first reduced, quickly, to this many times the target side
_STRIP_ROWS = 256  # rows of the photo that are converted at once


def read_photo(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Decodes a photo (JPEG, PNG, WebP or BMP) to the network's input.

    Returns:
        RGB [image_size, image_size, 3] uint8.

    Raises:
        PhotosError: The photo is missing, unreadable, truncated or too large; the message says which.
    """
    check_photo_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata; what matters is raised
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
    """Raises a PhotosError if a file is not a regular one, is empty, or is too large to open."""
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
    """Checks the size that the file declares, before anything is decoded."""
    kind = "progressive JPEG" if "progressive" in image.info else str(image.format)
    buffered = kind in ("progressive JPEG", "WEBP")
    limit = MAX_BUFFERED_PIXELS if buffered else MAX_PIXELS
    if image.width * image.height > limit:
        problem = f"has more than {limit // 1_000_000} megapixels"
        raise PhotosError(f"{problem}, the limit for a {kind} file" if buffered else problem)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Rotates a photo as EXIF says, converts it to RGB, scales the short side and cuts out the centre.

    Returns:
        RGB [image_size, image_size, 3] uint8.
    """
    image = ImageOps.exif_transpose(_to_reduced_rgb(image, preprocessing.resize_size * _COARSE))
    size, short = preprocessing.image_size, min(image.size)
    if short != preprocessing.resize_size:
        scale = preprocessing.resize_size / short
        width, height = (max(preprocessing.resize_size, round(side * scale)) for side in image.size)
        if max(width, height) > 50 * preprocessing.resize_size:
            raise PhotosError("is more than fifty times as long as it is wide")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


def _to_reduced_rgb(image: Image.Image, side: int) -> Image.Image:
    """Converts a photo to RGB, reduced by a whole factor that leaves its short side `side` or more.

    It works strip by strip, so that no second copy of a large photo is made.
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
    reduced.info = image.info  # keeps the orientation
    return reduced


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")

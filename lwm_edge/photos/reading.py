"""Reads photos: decodes them within limits, and prepares them for the network.

`read_photo` is the only way from a file to the network's input, in training, evaluation and prediction.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import PhotosError
from .guard import MAX_PIXELS
from .opening import open_photo
from .pixels import Pixels, preprocess
from .preprocessing import Preprocessing


def read_photo(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Decodes a photo (JPEG, PNG, WebP or BMP) to the network's input.

    Returns:
        RGB [image_size, image_size, 3] uint8.

    Raises:
        PhotosError: The photo is missing, unreadable, truncated or too costly; the message says which.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata; what matters is raised
            with open_photo(path) as image:
                return preprocess(image, preprocessing.image_size, preprocessing.resize_size)
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

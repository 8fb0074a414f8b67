"""Decodes photos to the network's input, and says what is wrong with those that cannot be decoded.

Nothing here imports pydantic, so that the process for costly photos (`decoder`) starts quickly.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import PhotosError
from .guard import MAX_PIXELS, SMALLER, TooCostlyHereError, ended_by_caller, wait_on
from .opening import KNOWN_FORMATS, open_photo
from .pixels import Pixels, preprocess


def decode(
    path: Path,
    image_size: int,
    resize_size: int,
    most_bytes: int | None = None,
    on_wait: Callable[[], None] = wait_on,
) -> Pixels:
    """Decodes a photo to RGB [image_size, image_size, 3] uint8.

    Args:
        path: Path of the photo.
        image_size: Height and width of the result.
        resize_size: Length of the photo's short side before the crop.
        most_bytes: Bytes that the worst photo of this format and size may take; None in the process with hard
            limits.
        on_wait: Function that is called a few times a second. What it raises is passed on unchanged.

    Raises:
        PhotosError: The photo is missing, unreadable, truncated or too costly; the message says which.
        TooCostlyHereError: The photo might take more than `most_bytes`.
        MemoryError: There is not enough memory.
    """
    with ended_by_caller():
        try:
            with _SILENCE, open_photo(path, resize_size, most_bytes, on_wait) as image:
                return preprocess(image, image_size, resize_size)
        except UnidentifiedImageError:
            raise PhotosError(f"is not a {KNOWN_FORMATS} image") from None
        except Image.DecompressionBombError:
            raise PhotosError(f"has more than {MAX_PIXELS // 1_000_000} megapixels; {SMALLER}") from None
        except (PhotosError, TooCostlyHereError, MemoryError):
            raise
        except PermissionError:
            raise PhotosError("may not be read (permission denied)") from None
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
            raise UndecodableError(" ".join(str(error).split())[:120]) from None


class _Silence:
    """Ignores warnings while any thread decodes: Pillow's are about odd metadata, and what matters is raised.

    Warning filters belong to the whole process. If each thread put back those that it found, the last one
    could put back what another had set, and an app would never see a warning again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._found = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._found = warnings.catch_warnings()
                self._found.__enter__()
                warnings.simplefilter("ignore")
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._found.__exit__(None, None, None)


_SILENCE = _Silence()


class UndecodableError(PhotosError):
    """Signals that a decoder could not decode a photo.

    Attributes:
        why: Reason, in the decoder's own words.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"is damaged ({why})")
        self.why = why

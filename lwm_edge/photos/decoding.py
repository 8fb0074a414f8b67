"""Decodes photos to the network's input, and says what is wrong with those that cannot be decoded.

Nothing here imports pydantic, so that the process for costly photos (`decoder`) starts quickly.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import PhotosError, is_about_access
from .guard import MAX_PIXELS, SMALLER, TooCostlyHereError, ended_by_caller, wait_on
from .opening import KNOWN_FORMATS, open_photo
from .pixels import Pixels, UnknownRangeError, preprocess


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
        most_bytes: Limit on the bytes that a photo of this format and size could take at worst; None if
            `decoder` decodes it, which has hard limits of its own.
        on_wait: Function that is called a few times a second. What it raises is passed on unchanged.

    Raises:
        PhotosError: The photo is missing, unreadable, truncated or too costly; the message says which.
        TooCostlyHereError: The photo might take more than `most_bytes`.
        MemoryError: There is not enough memory.
    """
    with ended_by_caller():
        try:
            with SILENCE, open_photo(path, resize_size, most_bytes, on_wait) as image:
                return preprocess(image, image_size, resize_size)
        except UnidentifiedImageError:
            raise PhotosError(f"is not a {KNOWN_FORMATS} image") from None
        except Image.DecompressionBombError:
            raise PhotosError(f"has more than {MAX_PIXELS // 1_000_000} megapixels; {SMALLER}") from None
        except UnknownRangeError as error:
            raise PhotosError(str(error)) from None
        except (PhotosError, TooCostlyHereError, MemoryError):
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
            if isinstance(error, OSError) and is_about_access(error):  # the system's error, not a decoder's
                raise PhotosError(f"cannot be read ({error.strerror})") from None
            raise UndecodableError(" ".join(str(error).split())[:120]) from None


class _Silence:
    """Ignores warnings while any thread is inside: Pillow warns about odd metadata, but raises real errors.

    Warning filters belong to the whole process. If each thread restored the filters that it found, the last
    thread could restore those that another one had set, and an app would never see a warning again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = Counter[int]()  # how often each thread is inside, as a callback may decode again
        self._found = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._found = warnings.catch_warnings()
                self._found.__enter__()
                warnings.simplefilter("ignore")
            self._threads[threading.get_ident()] += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads -= Counter([threading.get_ident()])  # drops threads that are no longer inside
            if not self._threads:
                self._found.__exit__(None, None, None)

    def hold(self) -> None:
        """Lets no thread begin or end decoding until `go_on`, so that this process can safely fork."""
        self._lock.acquire()

    def go_on(self) -> None:
        """Lets threads begin and end decoding again."""
        self._lock.release()

    def go_on_in_child(self) -> None:
        """Does what `go_on` does, but in a forked process; forgets threads that did not survive the fork."""
        before, ours = len(self._threads), self._threads[threading.get_ident()]
        self._threads = Counter({threading.get_ident(): ours} if ours else {})
        if before and not self._threads:
            self._found.__exit__(None, None, None)
        self._lock = threading.Lock()


SILENCE = _Silence()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=SILENCE.hold,
        after_in_parent=SILENCE.go_on,
        after_in_child=SILENCE.go_on_in_child,
    )


class UndecodableError(PhotosError):
    """Signals that a decoder could not decode a photo.

    Attributes:
        why: Reason, in the decoder's own words.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"is damaged ({why})")
        self.why = why

"""Reads photos: the only way from a file to the network's input, in training, evaluation and prediction.

Photos that are sure to take little memory are decoded in this process; all others are decoded in a process
with hard limits (`decoder`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import PhotosError, ResourceError
from ..memory import rss_bytes
from .decoder_process import DECODER, MIN_BYTES, OutOfRoomError
from .decoding import decode
from .guard import MAX_BYTES_HERE, MAX_MEMORY_BYTES, MIB, SMALLER, TooCostlyHereError, wait_on
from .pixels import Pixels
from .preprocessing import Preprocessing

_ALWAYS_HERE = 16 * MIB  # a photo may always take this much in this process, however little the limit leaves
_DECODER_BYTES = 36 * MIB  # what the process that decodes costly photos takes without a photo
_UNUSED_BYTES = 12 * MIB  # address space that counts against that process's limit, but may stay unused


def read_photo(
    path: Path,
    preprocessing: Preprocessing,
    limit_bytes: int | None = None,
    on_wait: Callable[[], None] = wait_on,
) -> Pixels:
    """Decodes a photo (JPEG, PNG, WebP, BMP, TIFF, AVIF or, with an extra, HEIC) to the network's input.

    Args:
        path: Path of the photo.
        preprocessing: Preprocessing of the model.
        limit_bytes: Largest number of bytes that this process and the one that decodes costly photos may take
            together. If it is None, only what the photo itself takes is limited.
        on_wait: Function that is called a few times a second while the photo is read. What it raises ends the
            reading, and is passed on unchanged.

    Returns:
        RGB [image_size, image_size, 3] uint8.

    Raises:
        PhotosError: The photo is missing, unreadable, truncated or too costly; the message says which.
        ResourceError: The limit leaves too little to decode even an ordinary photo.
    """
    image_size, resize_size = preprocessing.image_size, preprocessing.resize_size
    used = 0 if limit_bytes is None else rss_bytes()
    room = MAX_MEMORY_BYTES if limit_bytes is None else min(MAX_MEMORY_BYTES, limit_bytes - used)
    # if memory is scarce, photos that fail the first try need the other process; failing takes no time
    for here in (_ALWAYS_HERE, min(MAX_BYTES_HERE, room - DECODER.resident_bytes)):
        try:
            return decode(path, image_size, resize_size, here, on_wait)
        except MemoryError:
            raise PhotosError("does not fit into memory") from None
        except TooCostlyHereError:
            DECODER.may_be_needed = True
    if limit_bytes is not None and room < MIN_BYTES:
        raise ResourceError(
            f"{round(limit_bytes / MIB, 1):g} MiB of memory is too little to read {path}; pass --max-memory "
            f"{(used + MIN_BYTES) // MIB + 1}MiB or more if that much is available"
        )
    try:
        return DECODER.decode(path, image_size, resize_size, room, on_wait)
    except OutOfRoomError as error:
        if room < MAX_MEMORY_BYTES:
            enough = (used + MAX_MEMORY_BYTES) // MIB + 1
            raise PhotosError(f"{error.message}; --max-memory {enough}MiB is enough for any photo") from None
        raise PhotosError(f"{error.message}; {SMALLER}") from None


def forget_decoding_peak() -> None:
    """Starts measuring afresh how much memory the process that decodes costly photos takes."""
    DECODER.forget_peak()


def decoding_bytes(here: int) -> int:
    """Estimates the most bytes that reading photos took at any time, in both processes together.

    Args:
        here: Largest number of bytes that reading photos took in this process.
    """
    return max(here + DECODER.resident_bytes, DECODER.peak_bytes)


def separate_decoding_bytes(here: int) -> int:
    """Estimates what `decoding_bytes` would be if the other process decoded every costly photo.

    Returns 0 if this process would decode every photo even under the tightest limit.
    """
    if not DECODER.may_be_needed:
        return 0
    return max(MIN_BYTES, max(here + _DECODER_BYTES, DECODER.peak_bytes) + _UNUSED_BYTES)

"""Bounds what a photo may cost: Pillow reads every file through `GuardedFile`, which enforces the limits.

Pillow's loops over metadata are Python code that reads piece by piece, and its decoders are fed block by
block, so `GuardedFile` can count the reads and end them. The decoding of one block cannot be interrupted. Its
cost is bounded by the number of pixels that the file declares and, for JPEG, by the size of the block. Photos
for which that bound is too high or unknown are decoded in a process with hard limits (`decoder`).
"""

from __future__ import annotations

import io
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile

from .. import inspection
from ..errors import PhotosError
from .pixels import LONG, STRIP_ROWS

MIB = 2**20
MAX_FILE_BYTES = 256 * MIB
MAX_PIXELS = 64_000_000  # decoded pixels, each of which takes four bytes
MAX_JPEG_PIXELS = 200_000_000  # a JPEG is decoded directly to about the size that is needed
MAX_PROGRESSIVE_PIXELS = 110_000_000  # all scans are kept in memory, at three bytes a pixel or more
MAX_WEBP_PIXELS = 20_000_000  # the WebP decoder keeps several copies in memory
MAX_TIMES_AS_LONG = 50  # the long side, as a multiple of the short one
MAX_MEMORY_BYTES = 384 * MIB
MAX_METADATA_BYTES = 16 * MIB
MAX_METADATA_READS = 10_000  # Pillow makes three or four reads for each piece
MAX_SECONDS = 20  # of processor time
_SHARE_BEFORE_LAST_BLOCK = 0.8  # of MAX_SECONDS; the rest is for the last block
MAX_BYTES_HERE = 256 * MIB  # if photos of a format and size may take more, `decoder` decodes them
SMALLER = "save it with fewer pixels to use it"
_MOST_PIXELS = {
    "JPEG": MAX_JPEG_PIXELS,
    "progressive JPEG": MAX_PROGRESSIVE_PIXELS,
    "WEBP": MAX_WEBP_PIXELS,
}

# A JPEG decoder may keep up to 8 bytes a pixel until it has seen all scans; Pillow's result takes 4 more.
_BYTES_PER_PIXEL = {"JPEG": 12, "PNG": 5, "BMP": 5}
_MOST_BYTES_OF_PIXEL = 4  # in a file; no encoder writes more than uncompressed pixels take
_BYTES_PER_STRIP_PIXEL = 20  # for 16-bit grey, which is turned into floating-point numbers on the way

_SECONDS_BETWEEN_CALLS = 0.2  # of `on_wait`, in processor time: waits on a busy machine do not count
_SMALL_READ = 256  # bytes; not every read up to this size looks at the clock
_READS_PER_LOOK = 64


class TooCostlyHereError(Exception):
    """Signals that a photo must be decoded in the process with hard limits (`decoder`)."""


class EndedError(BaseException):
    """Carries an error of `on_wait` to the caller, past Pillow's code, which would catch many other errors.

    Attributes:
        error: Error to raise in place of this one.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def ended_by_caller() -> Iterator[None]:
    """Unwraps an EndedError that the block raises, and raises the error that it carries."""
    try:
        yield
    except EndedError as ended:
        raise ended.error from None


def wait_on() -> None:
    """Does nothing, so the reading goes on."""


class GuardedFile(io.BufferedReader):
    """Reads a photo's file for Pillow, and raises a PhotosError once the photo costs too much.

    Metadata is what Pillow reads before and after the pixels.

    Args:
        path: Path of the photo.
        on_wait: Function that is called a few times a second; any exception that it raises ends the reading.

    Attributes:
        length: Length of the file, in bytes.

    Raises:
        OSError: The file cannot be read, or is no longer a regular one.
    """

    def __init__(self, path: Path, on_wait: Callable[[], None] = wait_on) -> None:
        super().__init__(inspection.open_regular(path).detach())  # does not block, even if it is now a pipe
        self.length = self.seek(0, io.SEEK_END)
        self.seek(0)
        self._in_metadata = True
        self._reads = self._metadata_reads = self._metadata_bytes = 0
        self._looked_at = self._called_at = time.thread_time()
        self._ends_at = self._looked_at + _SHARE_BEFORE_LAST_BLOCK * MAX_SECONDS
        self._on_wait = on_wait

    def expect_pixels(self) -> None:
        """Counts what is read from now on as pixels."""
        self._in_metadata = False

    def expect_metadata(self) -> None:
        """Counts what is read from now on as metadata, in addition to what was counted before."""
        self._in_metadata = True

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads up to `size` bytes, or all that are left.

        Raises:
            PhotosError: The photo has cost too much; the message says which limit it exceeds.
            EndedError: `on_wait` raised an error.
        """
        self._reads += 1
        if size is None or not 0 <= size <= _SMALL_READ or not self._reads % _READS_PER_LOOK:
            self.look_at_the_clock()
        if size is None or size < 0:
            size = self._left()
        elif self._in_metadata:
            size = min(size, self._left())
            self._count_metadata(size)
        return super().read(size)

    def check_all_metadata(self, pixels: int, known_metadata: int) -> None:
        """Checks, as far as possible, how much metadata there is in a photo whose file is read in one go.

        Args:
            pixels: Number of pixels in all its pictures, or the most that there can be; if the file is longer
                than these can account for, the excess counts as metadata.
            known_metadata: Number of bytes that the decoder recognised as metadata.

        Raises:
            PhotosError: There is too much metadata.
        """
        self._metadata_bytes = 0
        self._count_metadata(max(known_metadata, self.length - pixels * _MOST_BYTES_OF_PIXEL))

    def _left(self) -> int:
        """Returns how many bytes are left, not counting any added since the file was opened."""
        return max(0, self.length - self.tell())

    def look_at_the_clock(self) -> float:
        """Ends the reading if its time is up, or if `on_wait` raises an error.

        Returns:
            Seconds of processor time since the last look.

        Raises:
            PhotosError: The photo takes too much processor time.
            EndedError: `on_wait` raised an error.
        """
        now = time.thread_time()
        if now > self._ends_at:
            raise PhotosError(f"may take more than {MAX_SECONDS} seconds of processor time")
        if now > self._called_at + _SECONDS_BETWEEN_CALLS:
            self._called_at = now
            try:
                self._on_wait()
            except Exception as error:
                raise EndedError(error) from error
        since, self._looked_at = now - self._looked_at, now
        return since

    def _count_metadata(self, size: int) -> None:
        self._metadata_reads += 1
        self._metadata_bytes += max(0, size)
        if self._metadata_reads > MAX_METADATA_READS:
            raise PhotosError("has metadata in too many pieces")
        if self._metadata_bytes > MAX_METADATA_BYTES:
            raise PhotosError(f"has more than {MAX_METADATA_BYTES // MIB} MiB of metadata")


def check_photo_file(path: Path) -> None:
    """Raises a PhotosError if a file is missing, is not a regular one, is empty, or is too large to open."""
    try:
        status = path.stat()
    except OSError as error:
        raise PhotosError(f"cannot be read ({error.strerror})") from None
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise PhotosError(
            f"cannot be read (its path has the character {character!a}, which cannot be part of a path here)"
        ) from None
    except ValueError:
        raise PhotosError("cannot be read (its path has a NUL character)") from None
    if not stat.S_ISREG(status.st_mode):
        raise PhotosError("is not a regular file")
    if status.st_size == 0:
        raise PhotosError("is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise PhotosError(f"is larger than {MAX_FILE_BYTES // MIB} MiB")


def check_pixels(image: Image.Image) -> None:
    """Checks the size that a file declares, before anything is decoded.

    Raises:
        PhotosError: The photo is too large, or too long for its width.
    """
    kind = "progressive JPEG" if "progressive" in image.info else str(image.format)
    limit = _MOST_PIXELS.get(kind, MAX_PIXELS)
    if image.width * image.height > limit:
        problem = f"has more than {limit // 1_000_000} megapixels"
        of_kind = f", the limit for a {kind} file" if kind in _MOST_PIXELS else ""
        raise PhotosError(f"{problem}{of_kind}; {SMALLER}")
    if max(image.size) > MAX_TIMES_AS_LONG * min(image.size):
        raise PhotosError("is more than fifty times as long as it is wide")


def check_cost_here(image: Image.Image, resize_size: int, most_bytes: int) -> None:
    """Raises TooCostlyHereError if a photo of this format and size might take more than `most_bytes`.

    It raises the error for every photo if the app has told Pillow to accept truncated ones, because the
    separate process has a Pillow of its own, which does not.

    Args:
        image: Photo as it was opened.
        resize_size: Length of the photo's short side before the crop.
        most_bytes: Largest number of bytes that the photo may take.
    """
    per_pixel = _BYTES_PER_PIXEL.get(str(image.format))
    if ImageFile.LOAD_TRUNCATED_IMAGES or per_pixel is None:
        raise TooCostlyHereError
    if _most_bytes(*image.size, per_pixel, resize_size) > most_bytes:
        raise TooCostlyHereError


def _most_bytes(width: int, height: int, per_pixel: int, resize_size: int) -> int:
    """Returns the most bytes that a photo can take while it is decoded and then preprocessed (`pixels`)."""
    pixels, short = width * height, min(width, height)
    shape = min(LONG, max(width, height) / short)
    coarse = min(pixels, int((4 * resize_size) ** 2 * shape))  # counts twice: turning makes a copy
    scaled = int(resize_size**2 * shape)  # counts twice: each direction is scaled separately
    strip = min(pixels, max(STRIP_ROWS, short // (2 * resize_size)) * max(width, height))
    return per_pixel * pixels + 8 * (coarse + scaled) + _BYTES_PER_STRIP_PIXEL * strip

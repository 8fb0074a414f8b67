"""Opens photos with Pillow, so that metadata cannot cost much, and damage to it alone gets no photo skipped.

PNG and JPEG are opened by classes derived from Pillow's: to set Pillow's switches instead would change them
for the whole process, which is somebody else's app.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngStream
from PIL.WebPImagePlugin import WebPImageFile

from .guard import GuardedFile, TooCostlyHereError, check_cost_here, check_photo_file, check_pixels

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_SCANS_BLOCK = 1024  # bytes of a JPEG that are decoded without a look at the clock
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TEXTS_WITH_ORIENTATION = ("Raw profile type exif", "XML:com.adobe.xmp", "xmp")


@contextmanager
def open_photo(path: Path, resize_size: int, most_bytes: int | None = None) -> Iterator[Image.Image]:
    """Opens a photo (JPEG, PNG, WebP or BMP) within the limits of `guard`; nothing is decoded yet.

    Args:
        path: Path of the photo.
        resize_size: Length of the short side that it is to be scaled to.
        most_bytes: Bytes that a photo like this one may take at worst; None in a process with a limit.

    Yields:
        The image, which must be decoded within the block.

    Raises:
        PhotosError: The photo is no regular file, or costs too much; decoding may raise this too.
        TooCostlyHereError: It might take more than `most_bytes`.
    """
    check_photo_file(path)
    with GuardedFile(path) as file, _opened(file, may_be_webp=most_bytes is None) as image:
        check_pixels(image)
        if most_bytes is not None:
            check_cost_here(image, resize_size, most_bytes)
        file.expect_pixels()
        yield image


def _opened(file: GuardedFile, may_be_webp: bool) -> Image.Image:
    for kind in (_Png, _Jpeg):
        try:
            return kind(file)
        except SyntaxError:  # Pillow's word for another format, or for a damaged header
            file.seek(0)
    is_webp = Image.OPEN[WebPImageFile.format][1]
    if not may_be_webp and is_webp and is_webp(file.peek(16)[:16]):  # to open one takes memory for its pixels
        raise TooCostlyHereError
    return Image.open(file, formats=("WEBP", "BMP"))


class _Jpeg(JpegImageFile):
    """Opens a JPEG, and only the first picture of a file that has several."""

    def _open(self) -> None:
        super()._open()
        self.decodermaxblock = _SCANS_BLOCK  # there may be many scans, of 10 bytes each, over all pixels

    def getexif(self) -> Image.Exif:
        """Returns no Exif: Pillow asks for it on opening, and may take hundreds of times its length."""
        return Image.Exif()


class _Png(PngImageFile):
    """Opens a PNG with a stream of chunks that forgives metadata."""

    @property
    def png(self) -> PngStream | None:
        """Returns the stream that Pillow reads chunks from."""
        return self._stream

    @png.setter
    def png(self, stream: PngStream | None) -> None:
        self._stream = stream and _ForgivingStream(stream.fp)  # type: ignore[arg-type]

    def load_end(self) -> None:
        """Reads the chunks after the pixels."""
        assert isinstance(self.fp, GuardedFile)
        self.fp.expect_metadata()
        super().load_end()


class _ForgivingStream(PngStream):
    """Passes over metadata that is damaged or too long, and keeps no text but the orientation."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        """Reads a chunk; what Pillow signals with EOFError and AttributeError is part of its loop."""
        if not self._is_metadata(cid):
            return super().call(cid, pos, length)
        before = self.im_info.copy()
        try:
            data = super().call(cid, pos, length)
        except (ValueError, SyntaxError, IndexError, struct.error):
            assert self.fp is not None
            self.fp.seek(pos + length)
            data = b""
        if cid in _TEXTS:
            self._keep_orientation_alone(before)
        return data

    def crc(self, cid: bytes, data: bytes) -> None:
        """Verifies the checksum of a chunk, unless it is metadata."""
        if self._is_metadata(cid):
            self.crc_skip(cid, data)
        else:
            super().crc(cid, data)

    def _is_metadata(self, cid: bytes) -> bool:
        """Tells whether a chunk is one that Pillow knows and that has no effect on the pixels."""
        ancillary = cid[:1].islower() and cid != b"tRNS"
        return ancillary and hasattr(self, f"chunk_{cid.decode('ascii', 'replace')}")

    def _keep_orientation_alone(self, before: dict[str | tuple[int, int], Any]) -> None:
        """Removes the texts just read from `im_info`, where one could also pass for something else."""
        kept = {name: self.im_info[name] for name in _TEXTS_WITH_ORIENTATION if name in self.im_info}
        self.im_info.clear()
        self.im_info.update(before)
        self.im_info.update(kept)
        self.im_text.clear()

"""Opens photos with Pillow so that metadata costs little, and damaged metadata is ignored where possible.

PNG and JPEG are opened by classes derived from Pillow's. Setting Pillow's switches instead would change them
for the whole process, which may be somebody else's app.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngStream

from ..errors import ConfigError, PhotosError
from ..extras import load_library
from .guard import (
    MAX_WEBP_PIXELS,
    GuardedFile,
    TooCostlyHereError,
    check_cost_here,
    check_photo_file,
    check_pixels,
    wait_on,
)
from .pixels import EXIF_BYTES

KNOWN_FORMATS = "JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_START_BYTES = 64
_BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIF": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"},
}
_CONTAINER_BRANDS = {b"mif1", b"msf1"}
_NEW_SUBFILE_TYPE = 254  # number of the TIFF tag whose lowest bit marks a preview
# Largest number of bytes to decode between two looks at the clock, for a JPEG with several scans and for one
# with a single scan. Most photos have a single scan, in which all bytes cost about the same.
_SCANS_BLOCK, _ONE_SCAN_BLOCK = 1024, 16 * 1024
_FIRST_BLOCK, _LEAST_BLOCK = 128, 16  # small, as 10 bytes may start another scan of all pixels
_FAST_BLOCK, _SLOW_BLOCK = 0.02, 0.1  # seconds
_START_OF_SCAN, _MOST_COLOURS = b"\xff\xda", 4
_WEBP_METADATA = ("exif", "xmp", "icc_profile")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_TEXTS_WITH_ORIENTATION = ("Raw profile type exif", "XML:com.adobe.xmp", "xmp")


@contextmanager
def open_photo(
    path: Path, resize_size: int, most_bytes: int | None = None, on_wait: Callable[[], None] = wait_on
) -> Iterator[Image.Image]:
    """Opens a photo of a known format within the limits of `guard`.

    Args:
        path: Path of the photo.
        resize_size: Length of the photo's short side before the crop.
        most_bytes: Limit on the bytes that a photo of this format and size could take at worst; None if
            `decoder` opens it, which has hard limits of its own.
        on_wait: Function that is called a few times a second; any exception that it raises ends the reading.

    Yields:
        The image, which must be decoded within the block.

    Raises:
        PhotosError: The photo is missing, is not a regular file, is empty, is a raw photo, or costs too much;
            decoding may raise this too.
        UnidentifiedImageError: The photo is of no known format.
        DecompressionBombError: The photo has far too many pixels.
        NeedsReaderError: A library that reads such photos is not installed.
        TooCostlyHereError: The photo might take more than `most_bytes`.
        EndedError: `on_wait` raised an error.
    """
    check_photo_file(path)
    with GuardedFile(path, on_wait) as file, _opened(file, in_decoder=most_bytes is None) as image:
        check_pixels(image)
        _refuse_preview(image)
        if most_bytes is not None:
            check_cost_here(image, resize_size, most_bytes)
        file.expect_pixels()
        yield image


def load_reader_of(path: Path) -> None:
    """Loads the library that reads a photo, so that its memory does not count as the photo's.

    Only the process with hard limits (`decoder`) may call this, as it changes settings of the whole process.

    Raises:
        OSError: The file cannot be read.
        PhotosError: The library is missing, or it cannot be loaded.
    """
    with GuardedFile(path) as file:
        _load_readers(_readable(_costly_formats(file)))


def _opened(file: GuardedFile, in_decoder: bool) -> Image.Image:
    for kind in (_Png, _Jpeg):
        try:
            return kind(file)
        except SyntaxError:  # Pillow's error for another format, or for a damaged header
            file.seek(0)
    formats = _readable(_costly_formats(file))
    if formats and not in_decoder:  # merely opening such a photo may load all its pixels, or the whole file
        raise TooCostlyHereError
    _load_readers(formats)
    if formats == ("WEBP",):
        file.check_all_metadata(MAX_WEBP_PIXELS, 0)  # checked before the whole file is read in one go
    image = Image.open(file, formats=formats or ("BMP",))
    if formats == ("WEBP",):
        _bound_webp_metadata(file, image)
    return image


def _bound_webp_metadata(file: GuardedFile, image: Image.Image) -> None:
    """Counts a WebP's metadata, and keeps only the kinds that can state the orientation.

    Pillow hands the whole file to its decoder, which passes on the three kinds of metadata that it knows, and
    says nothing about any others.
    """
    known = [image.info.pop(name, b"") for name in _WEBP_METADATA]
    frames = int(getattr(image, "n_frames", 1))
    file.check_all_metadata(image.width * image.height * frames, sum(map(len, known)))
    kept = {"exif": known[0][:EXIF_BYTES], "xmp": known[1]}
    image.info.update({name: content for name, content in kept.items() if content})


def _costly_formats(file: GuardedFile) -> tuple[str, ...]:
    """Returns which formats fit a file's first bytes, among those that only `decoder` may decode."""
    start = file.peek(_START_BYTES)[:_START_BYTES]
    if start.startswith(_TIFF_STARTS):
        return ("TIFF",)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return ("WEBP",)
    if start[4:8] != b"ftyp":
        return ()
    length = int.from_bytes(start[:4], "big")  # of the list of brands in AVIF, HEIF and video files
    brands = {start[at : at + 4] for at in range(8, min(length, len(start)), 4)}
    formats = tuple(name for name, of_format in _BRANDS.items() if brands & of_format)
    return formats or (("HEIF",) if brands & _CONTAINER_BRANDS else ())  # AVIF always names its own brand


def _readable(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Returns those of the formats that an installed library can read; refuses the photo if there is none."""
    readable = tuple(name for name in formats if name not in _READERS or find_spec(_READERS[name][0]))
    if formats and not readable:
        _, kind, how = _READERS[formats[-1]]
        raise NeedsReaderError(kind, how)
    return readable


_READERS = {  # module, what such photos are called, and how to get the module
    "AVIF": ("PIL.AvifImagePlugin", "AVIF", "pip install 'pillow>=11.3'"),
    "HEIF": ("pillow_heif", "HEIC", "pip install pillow-heif"),
}


class NeedsReaderError(PhotosError):
    """Signals that reading a photo, which may well be sound, needs a library that is not installed.

    Attributes:
        kind: Kind of the photo.
        how: Command that installs the library.
    """

    def __init__(self, kind: str, how: str) -> None:
        super().__init__(f"is a photo in {kind} format, which cannot be read without another library: {how}")
        self.kind, self.how = kind, how


def _load_readers(formats: Sequence[str]) -> None:
    """Loads the libraries that read some formats, with one thread each, so that their memory is bounded."""
    if "TIFF" in formats:
        from PIL import TiffImagePlugin  # noqa: F401
    if "WEBP" in formats:
        from PIL import WebPImagePlugin  # noqa: F401
    if "AVIF" in formats:
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if "HEIF" in formats:
        try:
            pillow_heif = load_library("pillow_heif", "photos in HEIC format need", "pillow-heif")
        except ConfigError as error:
            raise PhotosError(f"cannot be read: {error.message}") from error
        pillow_heif.register_heif_opener(
            decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
        )


def _refuse_preview(image: Image.Image) -> None:
    """Refuses a raw photo: Pillow finds only a tiny preview in most kinds."""
    if image.format == "TIFF" and int(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0)) & 1:  # type: ignore[attr-defined]
        raise PhotosError("is a raw photo, of which only a small preview can be read; save it as JPEG")


class _Jpeg(JpegImageFile):
    """Opens a JPEG, and only the first picture of a file that has several."""

    def _open(self) -> None:
        super()._open()
        self.decodermaxblock = _FIRST_BLOCK
        self.largest_block = _ONE_SCAN_BLOCK if self._has_one_scan() else _SCANS_BLOCK

    def _has_one_scan(self) -> bool:
        """Returns whether the first scan, whose header has just been read, is the only one to be decoded.

        The end of that header is known, but not its start, and data in front of a short header could be made
        to look like the start of a longer one. So the answer is no if headers of several lengths would fit.
        """
        assert isinstance(self.fp, GuardedFile)
        after = self.fp.tell()
        self.fp.seek(max(0, after - _scan_header_bytes(_MOST_COLOURS)))
        end = self.fp.read(after - self.fp.tell())
        possible = [colours for colours in range(1, _MOST_COLOURS + 1) if _is_scan_header(end, colours)]
        return possible == [self.layers] and not self.info.get("progressive")

    def load_read(self, read_bytes: int) -> bytes:
        """Reads a block for the decoder: a smaller one if the last was slow, a larger one if it was fast."""
        assert isinstance(self.fp, GuardedFile)
        seconds = self.fp.look_at_the_clock()
        if seconds > _SLOW_BLOCK:
            self.decodermaxblock = max(_LEAST_BLOCK, self.decodermaxblock // 4)
        elif seconds < _FAST_BLOCK:
            self.decodermaxblock = min(self.largest_block, self.decodermaxblock * 2)
        return super().load_read(min(read_bytes, self.decodermaxblock))

    def getexif(self) -> Image.Exif:
        """Returns no Exif.

        Pillow asks for it on opening, but parsing it may take hundreds of times its length in memory.
        """
        return Image.Exif()


def _scan_header_bytes(colours: int) -> int:
    return len(_START_OF_SCAN) + 6 + 2 * colours


def _is_scan_header(end: bytes, colours: int) -> bool:
    """Tells whether these bytes end with the header of a scan that has this number of colours."""
    length = _scan_header_bytes(colours)
    start = _START_OF_SCAN + (length - len(_START_OF_SCAN)).to_bytes(2, "big") + bytes([colours])
    return len(end) >= length and end[-length:].startswith(start)


class _Png(PngImageFile):
    """Opens a PNG with a stream of chunks that forgives faults in metadata."""

    @property
    def png(self) -> PngStream | None:
        """Returns the stream that Pillow reads chunks from."""
        return self._stream

    @png.setter
    def png(self, stream: PngStream | None) -> None:
        """Replaces the stream that Pillow opens with one that forgives faults in metadata."""
        self._stream = stream and _ForgivingStream(stream.fp)  # type: ignore[arg-type]

    def load_end(self) -> None:
        """Reads the chunks after the pixels."""
        assert isinstance(self.fp, GuardedFile)
        self.fp.expect_metadata()
        super().load_end()


class _ForgivingStream(PngStream):
    """Skips damaged or overlong metadata, and keeps only those texts that may give the orientation."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        """Reads a chunk; EOFError and AttributeError are passed on, as Pillow's loop relies on them."""
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
            self._keep_only_orientation(before)
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

    def _keep_only_orientation(self, before: dict[str | tuple[int, int], Any]) -> None:
        """Drops the texts just read, as they may have replaced other entries; keeps the orientation."""
        kept = {name: self.im_info[name] for name in _TEXTS_WITH_ORIENTATION if name in self.im_info}
        self.im_info.clear()
        self.im_info.update(before)
        self.im_info.update(kept)
        self.im_text.clear()

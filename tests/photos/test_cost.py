"""A photo costs a bounded number of reads, bytes and seconds, and is not skipped for damaged metadata."""

from __future__ import annotations

import ast
import functools
import io
import itertools
import os
import re
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

import lwm_edge
from lwm_edge.errors import PhotosError
from lwm_edge.photos import checking, decoder_process, guard, opening
from lwm_edge.photos.decoder_process import DECODER
from lwm_edge.photos.guard import (
    MAX_MEMORY_BYTES,
    MAX_METADATA_BYTES,
    MAX_METADATA_READS,
    MAX_SECONDS,
    MIB,
    GuardedFile,
)
from lwm_edge.photos.opening import open_photo
from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.photos.reading import read_photo
from tests.support import odd_photos as odd
from tests.support.hostile import memory_bound, no_hang, published

PREPROCESSING = Preprocessing(image_size=32, resize_size=32, mean=(0, 0, 0), std=(1, 1, 1))
Make = Callable[[], bytes]
PIECES, BYTES = "has metadata in too many pieces", "has more than 16 MiB of metadata"
SECONDS = f"may take more than {MAX_SECONDS} seconds of processor time"
LARGE = bytes(17 * MIB)


class Counted(GuardedFile):
    """Counts Pillow's reads of the photo that was opened last."""

    reads = bytes_read = 0

    def __init__(self, path: Path, on_wait: Callable[[], None]) -> None:
        super().__init__(path, on_wait)
        type(self).reads = type(self).bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        type(self).reads += 1
        content = super().read(size)
        type(self).bytes_read += len(content)
        return content


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    monkeypatch.setattr(opening, "GuardedFile", Counted)


@pytest.fixture
def photo(tmp_path):
    def write(content: bytes) -> Path:
        (tmp_path / "photo").write_bytes(content)
        return tmp_path / "photo"

    return write


def refusal(path: Path) -> str:
    with no_hang(), pytest.raises(PhotosError) as caught:
        read_photo(path, PREPROCESSING)
    return caught.value.message


def assert_two_halves(pixels: np.ndarray) -> None:
    left, right = pixels[16, 8].astype(int), pixels[16, 24].astype(int)
    assert np.abs(left - (200, 30, 30)).max() <= 6 and np.abs(right - (40, 50, 180)).max() <= 6


# Metadata

TOO_MUCH_METADATA: dict[str, tuple[Make, str]] = {
    "Exif segments": (lambda: odd.jpeg(odd.exif_segment(b"x" * 8) * 9_000), PIECES),
    "empty comments": (lambda: odd.jpeg(odd.segment(0xFE, b"") * 9_000), PIECES),
    "padding": (lambda: odd.jpeg(b"\xff" * 20_000), PIECES),
    "large segments": (lambda: odd.jpeg(odd.segment(0xEF, bytes(65_000)) * 270), BYTES),
    "empty chunks": (lambda: odd.png(odd.chunk(b"prVt", b"") * 9_000), PIECES),
    "empty chunks at the end": (lambda: odd.png(odd.chunk(b"prVt", b"") * 9_000, before=b"IEND"), PIECES),
    "a large chunk": (lambda: odd.png(odd.chunk(b"prVt", LARGE)), BYTES),
    "a large chunk at the end": (lambda: odd.png(odd.chunk(b"prVt", LARGE), before=b"IEND"), BYTES),
    "a large text": (lambda: odd.png(odd.chunk(b"tEXt", b"a\0" + LARGE)), BYTES),
}


def test_a_photo_with_too_much_metadata_is_skipped_before_it_costs_more(photo):
    for name, (make, reason) in TOO_MUCH_METADATA.items():
        path = photo(make())
        with memory_bound(64 * MIB):
            assert refusal(path) == reason, name
        assert Counted.reads <= MAX_METADATA_READS + 20, name  # the 20 find the format or read pixels
        assert Counted.bytes_read <= MAX_METADATA_BYTES + 64 * 1024, name
    assert published(f"| cost: too much metadata | {len(TOO_MUCH_METADATA)} | skipped |")


MUCH_METADATA: dict[str, Make] = {
    "Exif of 15 MiB": lambda: odd.jpeg(odd.exif_segment(bytes(65_000)) * 240),
    "an ICC profile of 15 MiB": lambda: odd.jpeg(
        *(odd.segment(0xE2, b"ICC_PROFILE\0" + bytes((n + 1, 240)) + bytes(65_000)) for n in range(240))
    ),
    "a trailer of 40 MiB": lambda: odd.jpeg() + bytes(40 * MIB),
    "a private chunk of 15 MiB": lambda: odd.png(odd.chunk(b"prVt", bytes(15 * MIB))),
    "Exif as a text of 15 MiB of line ends": lambda: odd.png(
        odd.chunk(b"tEXt", b"Raw profile type exif\0" + b"\n" * (15 * MIB))
    ),
    "2,000 texts": lambda: odd.png(*(odd.chunk(b"tEXt", b"%d\0x" % n) for n in range(2_000))),
}


def test_a_photo_with_up_to_16_mib_of_metadata_is_read(photo):
    for make in MUCH_METADATA.values():
        path = photo(make())
        with memory_bound(112 * MIB):
            assert_two_halves(read_photo(path, PREPROCESSING))
    assert published(f"| cost: much metadata | {len(MUCH_METADATA)} | read, with the right pixels |")


@functools.cache
def _two_halves_in_webp(side: int) -> bytes:
    image = Image.open(io.BytesIO(odd.png())).resize((side, side), Image.Resampling.NEAREST)
    return odd.webp_pixels(image)


def _webp_of_two_halves(kind: bytes, length: int, side: int = 64) -> bytes:
    return odd.webp(side, odd.webp_chunk(kind, bytes(length)), _two_halves_in_webp(side))


def test_a_webp_with_too_much_metadata_is_skipped_for_that_reason(photo):
    """Private chunks count only as far as the file has more than four bytes for each pixel."""
    kinds = (b"EXIF", b"XMP ", b"ICCP", b"prVt")
    tried = [(kind, 17, 64) for kind in kinds] + [(b"EXIF", 17, 4_400)]
    for kind, mib, side in [*tried, (b"prVt", 100, 4_400), (b"prVt", 200, 64)]:
        path = photo(_webp_of_two_halves(kind, mib * MIB, side))
        with memory_bound(192 * MIB):
            assert refusal(path) == BYTES, (kind, mib, side)
    assert published(f"| cost: WebP with too much metadata | {len(tried) + 2} | skipped |")


def test_a_webp_with_up_to_16_mib_of_metadata_is_read(photo):
    tried = [(b"EXIF", 64), (b"XMP ", 64), (b"ICCP", 64), (b"prVt", 64), (b"EXIF", 4_400), (b"XMP ", 4_400)]
    for kind, side in tried:
        path = photo(_webp_of_two_halves(kind, 15 * MIB, side))
        with memory_bound(MAX_MEMORY_BYTES):
            assert_two_halves(read_photo(path, PREPROCESSING))
    assert published(f"| cost: WebP with much metadata | {len(tried)} | read, with the right pixels |")


def test_a_webp_is_turned_upright_though_its_exif_is_long(photo):
    image = Image.open(io.BytesIO(odd.png())).transpose(Image.Transpose.ROTATE_90)
    exif = odd.webp_chunk(b"EXIF", odd.ifd(ORIENTATION) + bytes(MIB))
    assert_two_halves(read_photo(photo(odd.webp(64, exif, odd.webp_pixels(image))), PREPROCESSING))


def _icc(length: int) -> bytes:
    return odd.chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(length)))


def _text(kind: bytes, length: int) -> bytes:
    middle = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
    return odd.chunk(kind, b"text" + middle + zlib.compress(bytes(length)))


DAMAGED_METADATA: dict[str, Make] = {
    "a large profile": lambda: odd.png(_icc(50_000_000)),
    "a large zTXt": lambda: odd.png(_text(b"zTXt", 50_000_000)),
    "a large iTXt": lambda: odd.png(_text(b"iTXt", 50_000_000)),
    "a large iTXt at the end": lambda: odd.png(_text(b"iTXt", 50_000_000), before=b"IEND"),
    "70 texts of 1 MiB": lambda: odd.png(_text(b"zTXt", 2**20 - 1) * 70),
    "a text's checksum": lambda: odd.png(odd.chunk(b"tEXt", b"a\0b", wrong_crc=True)),
    "an Exif chunk's checksum": lambda: odd.png(odd.chunk(b"eXIf", b"II*\0", wrong_crc=True)),
    "a text called transparency": lambda: odd.png(odd.chunk(b"tEXt", b"transparency\0b")),
    "no compression method": lambda: odd.png(odd.chunk(b"zTXt", b"a")),
    "an unknown compression": lambda: odd.png(odd.chunk(b"iCCP", b"profile\0\7x")),
    "a short pHYs": lambda: odd.png(odd.chunk(b"pHYs", b"")),
    "Exif that is not TIFF": lambda: odd.jpeg(odd.exif_segment(b"no TIFF at all")),
    "Exif cut short": lambda: odd.jpeg(odd.exif_segment(odd.ifd((0x0110, 2, 4_000, 26))[:20])),
    "XMP that is not text": lambda: odd.jpeg(odd.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe")),
}


def test_a_photo_with_damaged_metadata_is_read(photo):
    for make in DAMAGED_METADATA.values():
        with memory_bound(128 * MIB):
            assert_two_halves(read_photo(photo(make()), PREPROCESSING))
    assert published(f"| cost: damaged metadata | {len(DAMAGED_METADATA)} | read, with the right pixels |")
    assert PngImagePlugin.MAX_TEXT_CHUNK == ImageFile.SAFEBLOCK and not ImageFile.LOAD_TRUNCATED_IMAGES


def test_damage_to_chunks_that_affect_the_pixels_is_not_forgiven(photo):
    palette = Image.new("P", (64, 64))
    palette.putpalette([10, 20, 30])
    content = bytearray(odd.saved(palette, "PNG", transparency=0))
    for kind in (b"PLTE", b"tRNS", b"IHDR"):
        changed = bytearray(content)
        changed[content.index(kind) + 4] ^= 1
        assert "is not a" in refusal(photo(bytes(changed))) or "is damaged" in refusal(photo(bytes(changed)))
        renamed = content.replace(kind, kind[:1].swapcase() + kind[1:])
        assert refusal(photo(bytes(renamed)))


def _rotated(exif: bytes) -> bytes:
    upright = Image.open(io.BytesIO(odd.jpeg()))
    content = odd.saved(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95)
    return content[:2] + odd.exif_segment(exif) + content[2:]


ORIENTATION = (0x0112, 3, 1, 6)
BROKEN_BESIDE_ORIENTATION = {
    "GPS of 0/0": odd.ifd(ORIENTATION, (0x8825, 4, 1, 38))
    + struct.pack("<HHHII", 1, 2, 5, 3, 56) + bytes(4 + 24),
    "resolution of 0/0": odd.ifd(ORIENTATION, (0x011A, 5, 1, 38)) + bytes(8),
    "a tag past the end": odd.ifd(ORIENTATION, (0x0110, 2, 9_999, 60_000)),
    "an unknown type": odd.ifd(ORIENTATION, (0x0110, 99, 1, 1)),
    "a type that Pillow cannot write": odd.ifd(ORIENTATION, (0x8769, 2, 9, 26), (0x8825, 7, 2, 1)),
    "a missing end": odd.ifd(ORIENTATION)[:-4],
}  # fmt: skip


def test_a_rotated_photo_is_seen_upright_though_the_rest_of_its_exif_is_broken(photo):
    for exif in BROKEN_BESIDE_ORIENTATION.values():
        assert_two_halves(read_photo(photo(_rotated(exif)), PREPROCESSING))
    count = len(BROKEN_BESIDE_ORIENTATION)
    assert published(f"| cost: broken Exif beside the orientation | {count} | read, upright |")


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("kind", ["eXIf", "raw profile", "XMP"])
def test_a_png_is_turned_upright_wherever_its_orientation_is(photo, before, kind):
    exif, image = odd.ifd(ORIENTATION), Image.open(io.BytesIO(odd.png()))
    profile = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode())
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    chunks = {"eXIf": (b"eXIf", exif), "raw profile": (b"tEXt", profile), "XMP": (b"iTXt", xmp)}
    content = odd.png(
        odd.chunk(*chunks[kind]), before=before, image=image.transpose(Image.Transpose.ROTATE_90)
    )
    assert_two_halves(read_photo(photo(content), PREPROCESSING))


def test_a_png_is_turned_upright_though_its_exif_is_a_long_text(photo):
    exif = (odd.ifd(ORIENTATION) + bytes(100_000)).hex().encode()
    lines = b"\n".join(exif[start : start + 72] for start in range(0, len(exif), 72))
    profile = odd.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  100026\n" + lines)
    image = Image.open(io.BytesIO(odd.png())).transpose(Image.Transpose.ROTATE_90)
    assert_two_halves(read_photo(photo(odd.png(profile, image=image)), PREPROCESSING))


def test_exif_tags_that_share_bytes_take_little_memory(photo):
    """Each of 5,000 tags claims the same 60,000 bytes, which some releases of Pillow copy for each tag."""
    structure = odd.ifd(*((1_000 + number, 7, 60_000, 8) for number in range(5_000)))
    for content in (
        odd.jpeg(odd.exif_segment(structure)),
        odd.jpeg(odd.segment(0xE2, b"MPF\0" + structure)),
        odd.png(odd.chunk(b"eXIf", structure)),
    ):
        with memory_bound(32 * MIB):
            assert_two_halves(read_photo(photo(content), PREPROCESSING))


# Memory


def _rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


LONG: dict[str, tuple[str, int, int, str, dict[str, Any]]] = {
    "landscape with transparency": ("RGBA", 56_500, 1_131, "PNG", {"compress_level": 1}),
    "landscape of 16-bit grey": ("I;16", 51_000, 1_023, "PNG", {"compress_level": 1}),
    "portrait": ("RGB", 1_131, 56_500, "BMP", {}),
    "landscape in CMYK": ("CMYK", 51_000, 1_023, "JPEG", {}),
    "landscape whose whole width is converted": ("RGB", 12_285, 4_095, "JPEG", {"exif": _rotated_by_exif()}),
}


@pytest.mark.slow
@pytest.mark.parametrize("side", [512, 4096])  # the longest that always fits, and one that may not
@pytest.mark.parametrize("name", LONG)
def test_long_photos_take_no_more_memory_than_others(photo, name, side):
    """Their short side is too short to be reduced before the conversion, or their rows are very long."""
    mode, width, height, format, options = LONG[name]
    path = photo(odd.saved(Image.new(mode, (width, height)), format, **options))
    with memory_bound(MAX_MEMORY_BYTES):
        try:
            read_photo(path, PREPROCESSING.model_copy(update={"resize_size": side}))
        except PhotosError as error:
            assert side > 512 and error.message.startswith("takes more than 384 MiB of memory to decode; ")


def test_a_long_photo_shows_its_centre(photo):
    """Only the middle of the photo is converted; its centre is the photo's centre, to the pixel."""
    columns = np.arange(40 * 7).astype(np.uint8)
    pixels = np.broadcast_to(columns[None, :, None], (40, 40 * 7, 3))
    for shown in (pixels, pixels[:, 1:]):
        left = (shown.shape[1] - 32) // 2
        for turned in (False, True):
            image = Image.fromarray(np.ascontiguousarray(shown.swapaxes(0, 1) if turned else shown))
            found = read_photo(
                photo(odd.saved(image, "PNG")), PREPROCESSING.model_copy(update={"resize_size": 40})
            )
            expected = np.broadcast_to(shown[4:36, left : left + 32], (32, 32, 3))
            np.testing.assert_array_equal(found, expected.swapaxes(0, 1) if turned else expected)


# Files that change


def test_a_file_that_becomes_a_pipe_while_it_is_read_does_not_hang(photo, monkeypatch):
    path = photo(odd.png())

    def swap(checked: Path) -> None:
        guard.check_photo_file(checked)
        checked.unlink()
        os.mkfifo(checked)

    monkeypatch.setattr(opening, "check_photo_file", swap)
    assert "not a file" in refusal(path)
    monkeypatch.setattr(checking, "check_photo_file", lambda path: None)
    with no_hang(), pytest.raises(PhotosError, match="not a file"):
        checking.file_digest(path)


def test_bytes_added_to_a_file_while_it_is_read_are_not_read(photo):
    path = photo(bytes(100))
    for in_metadata in (True, False):
        with GuardedFile(path) as file:
            with path.open("ab") as grown:
                grown.write(bytes(50))
            if not in_metadata:
                file.expect_pixels()
            assert len(file.read(1000 if in_metadata else -1)) == file.length < path.stat().st_size


# Time

SLOW: dict[str, Make] = {
    "progressive JPEG of 3,000 scans": lambda: odd.progressive_jpeg(1_000, 3_000),
    "sequential JPEG of 3,000 scans": lambda: odd.sequential_jpeg(1_000, 3_000),
    "run-length encoded BMP": lambda: odd.rle_bmp(1_000),
    "PNG with empty chunks of pixels": lambda: odd.png(odd.chunk(b"IDAT", b"") * 100_000),
    "PNG of one large chunk": lambda: odd.png(
        image=Image.frombytes("RGB", (800, 800), np.random.default_rng(0).bytes(800 * 800 * 3))
    ),
}


def test_decoders_are_stopped_when_their_time_is_up(photo, monkeypatch):
    """Each look at the clock advances it by a second, so it counts the looks."""
    for name, make in SLOW.items():
        path = photo(make())
        monkeypatch.setattr(time, "thread_time", itertools.count().__next__)
        assert refusal(path) == SECONDS, name
        assert Counted.reads <= (MAX_SECONDS + 1) * guard._READS_PER_LOOK, name
        block = opening._SCANS_BLOCK if "JPEG" in name else ImageFile.MAXBLOCK
        assert Counted.bytes_read <= (MAX_SECONDS + 1) * block + 4096, name
        monkeypatch.undo()
        monkeypatch.setattr(opening, "GuardedFile", Counted)


class CallerStoppedError(ValueError):
    """Signals that a caller has stopped waiting; Pillow would take a ValueError for damage."""


@pytest.mark.parametrize("name", [*SLOW, "a WebP, in the other process"])
def test_a_caller_that_waits_for_a_photo_can_stop_the_reading(photo, monkeypatch, name):
    def enough() -> None:
        raise CallerStoppedError

    if name in SLOW:
        path = photo(SLOW[name]())
        monkeypatch.setattr(time, "thread_time", itertools.count().__next__)
    else:
        path = photo(odd.webp_of_code_tables())
        monkeypatch.setattr(decoder_process, "_SECONDS_BETWEEN_LOOKS", 0)  # without waiting between looks
    with no_hang(), pytest.raises(CallerStoppedError):
        read_photo(path, PREPROCESSING, on_wait=enough)
    assert Counted.reads <= 2 * guard._READS_PER_LOOK
    assert name in SLOW or DECODER._process is None
    monkeypatch.undo()
    assert_two_halves(read_photo(photo(odd.png()), PREPROCESSING))


def test_a_jpeg_of_slow_scans_is_decoded_in_ever_smaller_blocks(photo, monkeypatch):
    sizes: list[int] = []

    class Noted(GuardedFile):
        def read(self, size: int | None = -1, /) -> bytes:
            sizes.append(size or 0)
            return super().read(size)

    monkeypatch.setattr(opening, "GuardedFile", Noted)
    path = photo(odd.jpeg(side=2_000))
    for seconds, expected in ((0.01, opening._ONE_SCAN_BLOCK), (0.15, opening._LEAST_BLOCK)):
        sizes.clear()
        monkeypatch.setattr(GuardedFile, "look_at_the_clock", lambda file, seconds=seconds: seconds)
        read_photo(path, PREPROCESSING)
        assert sizes[-1] == expected


@pytest.mark.parametrize(
    ("content", "block"),
    [
        (odd.jpeg(), opening._ONE_SCAN_BLOCK),
        (odd.saved(Image.new("L", (64, 64)), "JPEG"), opening._ONE_SCAN_BLOCK),
        (odd.saved(Image.new("CMYK", (64, 64)), "JPEG"), opening._ONE_SCAN_BLOCK),
        (odd.progressive_jpeg(64, 2), opening._SCANS_BLOCK),
        (odd.sequential_jpeg(64, 2), opening._SCANS_BLOCK),
        (odd.jpeg_with_a_forged_scan_header(), opening._SCANS_BLOCK),
    ],
    ids=["one scan", "grey", "of four colours", "progressive", "one colour after the other", "forged"],
)
def test_a_jpeg_of_one_scan_is_decoded_in_larger_blocks(photo, content, block):
    with open_photo(photo(content), 32) as image:
        assert isinstance(image, opening._Jpeg) and image.largest_block == block


@pytest.mark.slow
def test_the_worst_photos_are_skipped_within_memory_and_time(photo, monkeypatch):
    """The limit is one second here, not twenty."""
    monkeypatch.setattr(guard, "MAX_SECONDS", 1)
    time_is_up, memory_is_up = "more than 1 seconds of processor time", "more than 384 MiB of memory"
    worst: dict[str, tuple[Make, str]] = {
        "progressive JPEG": (lambda: odd.progressive_jpeg(4_470, 17_000), time_is_up),
        "sequential JPEG": (lambda: odd.sequential_jpeg(4_000, 12_800), time_is_up),
        "sequential JPEG of 64 megapixels": (lambda: odd.sequential_jpeg(7_990, 12_800), memory_is_up),
        "run-length encoded BMP": (lambda: odd.rle_bmp(4_000), time_is_up),
        "PNG": (lambda: odd.png(odd.chunk(b"IDAT", b"") * 3_000_000), time_is_up),
        "WebP with 65,536 code tables": (odd.webp_of_code_tables, memory_is_up),
    }
    for name, (make, why) in worst.items():
        path = photo(make())
        started = _processor_seconds()
        with memory_bound(MAX_MEMORY_BYTES):
            assert why in refusal(path), name
        assert _processor_seconds() - started < 3, name  # the second process has to start, too
    assert published(f"| cost: decoders' worst cases | {len(worst)} | skipped |")


def _processor_seconds() -> float:
    """Ends the second process, and returns the processor time of this process and of its ended children."""
    DECODER.end()
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.mark.slow
def test_a_webp_whose_decoder_would_take_too_much_is_skipped(photo):
    tried = Counter[str]()
    for side, mib in ((4_470, 1), (4_470, 40), (4_000, 6), (400, 15), (4_470, 15)):
        path = photo(odd.webp(side, b"ABCD\0\0\0\0" * (mib * MIB // 8)))
        with memory_bound(MAX_MEMORY_BYTES):
            try:
                read_photo(path, PREPROCESSING)
                tried["read"] += 1
            except PhotosError as error:
                assert "more than 384 MiB of memory" in error.message
                tried["skipped"] += 1
    assert tried == {"read": 3, "skipped": 2}
    assert published("| cost: WebP with millions of chunks | 5 | 3 read, 2 skipped |")


# The one place that opens photos


def test_photos_are_opened_in_only_one_place() -> None:
    package = Path(lwm_edge.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Image.open", "PIL.Image.open"):
                found.add(path.relative_to(package).as_posix())
            if isinstance(node, ast.ImportFrom) and re.fullmatch(r"PIL\..*Plugin", node.module or ""):
                found.add(path.relative_to(package).as_posix())
    assert found == {"photos/opening.py"}

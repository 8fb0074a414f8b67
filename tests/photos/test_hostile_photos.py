"""Each hostile photo is read, or reported with the reason; none is fatal, and memory stays bounded."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lwm_edge import predict
from lwm_edge.errors import SOME_PHOTOS_FAILED, PhotosError
from lwm_edge.home.home import Home
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.guard import MAX_MEMORY_BYTES, MAX_WEBP_PIXELS
from lwm_edge.photos.photo_set import PixelCache
from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.photos.reading import read_photo
from tests.support.folders import DEMO_DATA
from tests.support.hostile import memory_bound, no_hang, ordinary_user, published
from tests.support.writable import needs_writer_of

PREPROCESSING = Preprocessing(image_size=28, resize_size=28, mean=(0, 0, 0), std=(1, 1, 1))
REAL = sorted((DEMO_DATA / "train" / "base" / "Coat").glob("*.png"))
SAVED_AS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("jpg", "JPEG", {}), ("progressive.jpg", "JPEG", {"progressive": True}), ("png", "PNG", {}),
    ("webp", "WEBP", {}), ("lossless.webp", "WEBP", {"lossless": True}), ("bmp", "BMP", {}),
    ("tiff", "TIFF", {}), ("lzw.tiff", "TIFF", {"compression": "tiff_lzw"}), ("avif", "AVIF", {}),
    ("heic", "HEIF", {}),
)  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")
FOREIGN = ("GIF", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "EPS", "PDF", "ICNS", "JPEG2000")
NO_IMAGES = (
    b"", b"\0", b"\0" * 5000, b"\xff\xd8\xff", b"BM", b"RIFF\xff\xff\xff\xffWEBP", b"%PDF-1.7\n", b"GIF89a",
    b"\x89PNG\r\n\x1a\n", b"PK\3\4" * 99, b"<svg xmlns='x'/>", b"%!PS\n/x {x} def x\n", b"cos\nsystem\n.",
)  # fmt: skip
NAMES = (
    "a\nb", "a\rb", "\x1b[2J", "\u202egnp", "a\tb", " ", "%s%n", "-rf", "$(x)", "x" * 200, "\udcff", "🦊",
)  # fmt: skip
Case = tuple[str, str, bytes]  # kind, file name, content


def picture(side: int = 96) -> Image.Image:
    with Image.open(REAL[0]) as image:
        return image.convert("RGB").resize((side, side))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], colour: int = 2) -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in (header, *chunks, (b"IEND", b"")):
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    return b"".join(parts)


def truncated() -> Iterator[Case]:
    for name, format, options in SAVED_AS:
        content = saved(picture(), format, **options)
        for tenth in range(10):
            cut = content[: len(content) * tenth // 10]
            yield "cut off after each tenth of the file", f"cut{tenth}.{name}", cut


def mutated() -> Iterator[Case]:
    draw = random.Random(0)
    for name, format, options in SAVED_AS:
        content = saved(picture(), format, **options)
        for number in range(60):
            changed = bytearray(content)
            for _ in range(draw.randint(1, 8)):
                changed[draw.randrange(draw.choice((64, len(changed))))] = draw.randrange(256)
            yield "bytes changed", f"mutated{number}.{name}", bytes(changed)


def bombs() -> Iterator[Case]:
    pixels = zlib.compress(bytes(50_000_000), 9)  # 50 kB of file
    for number, side in enumerate((8_001, 10_000, 20_000, 60_000, 2**31 - 1)):
        yield "decompression bombs", f"bomb{number}.png", png(side, side, (b"IDAT", pixels))
    for number, kind in enumerate((b"zTXt", b"iCCP", b"iTXt")):
        middle = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
        text = (kind, b"bomb" + middle + pixels)
        yield (
            "decompression bombs",
            f"text{number}.png",
            png(28, 28, text, (b"IDAT", zlib.compress(bytes(9)))),
        )
    for number in range(4):  # a bitmap header that declares more than the file has
        width, height = ((2**31 - 1, 1), (60_000, 60_000), (30_000, -30_000), (1, 2**31 - 1))[number]
        header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        yield "decompression bombs", f"bomb{number}.bmp", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
    jpeg = bytearray(saved(picture(), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 65_500, 65_500)
    yield "decompression bombs", "bomb.jpg", bytes(jpeg)


def megapixels() -> Iterator[Case]:
    plain: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("L", "PNG", {}), ("1", "BMP", {}), ("P", "PNG", {}),
    )  # fmt: skip
    for mode, format, options in plain:
        name = f"{mode}{len(options)}.{format.lower()}"
        yield "100 megapixels", name, saved(Image.new(mode, (10_000, 10_000)), format, **options)
    side = int((MAX_WEBP_PIXELS * 1.1) ** 0.5)
    yield (
        "WebP of 22 megapixels",
        "22.webp",
        saved(Image.new("RGB", (side, side)), "WEBP", quality=1, method=0),
    )


def large() -> Iterator[Case]:
    """Makes photos that are large but within the limits, some in the modes that need the most memory."""
    for mode, format, side in (("RGBA", "PNG", 7_990), ("I;16", "PNG", 7_990), ("CMYK", "JPEG", 7_990)):
        yield "64 megapixels, read", f"{mode[:2]}.{format}", saved(Image.new(mode, (side, side)), format)
    for format, options in (("JPEG", {"progressive": True}), ("WEBP", {"lossless": True, "method": 0})):
        image = Image.new("RGB", (4_470, 4_470))
        yield "20 megapixels, read", f"20.{format}", saved(image, format, **options)
    kind = "JPEG of 108 megapixels, progressive JPEG of 48, read"
    yield kind, "108.jpg", saved(Image.new("L", (12_000, 9_000), 99), "JPEG")
    yield kind, "48.jpg", saved(Image.new("RGB", (8_000, 6_000), "teal"), "JPEG", progressive=True)


def animated() -> Iterator[Case]:
    for count in (2, 10, 100):
        frames = [picture().rotate(turn) for turn in range(count)]
        for format in ("WEBP", "PNG", "GIF"):
            content = saved(frames[0], format, save_all=True, append_images=frames[1:])
            yield "animated", f"{count}.{format.lower()}", content


def wrong_extensions() -> Iterator[Case]:
    for ending in ("png", "jpg", "webp", "bmp", "txt", "", "JPG.exe"):
        for format in FORMATS:
            yield "wrong extension, read", f"{format}.{ending}", saved(picture(), format)


def foreign() -> Iterator[Case]:
    for format in FOREIGN:
        for ending in ("jpg", "png"):
            yield "another format, named as a photo", f"{format}.{ending}", saved(picture(), format)
    for number, content in enumerate(NO_IMAGES):
        yield "empty, or no image", f"none{number}.jpg", content


def strange_names() -> Iterator[Case]:
    for name in NAMES:
        yield "strange file names, read", f"{name}.png", saved(picture(), "PNG")
        yield "strange file names, no image", f"{name}.jpg", b"no image"


CASES = (truncated, mutated, bombs, megapixels, large, animated, wrong_extensions, foreign, strange_names)


@pytest.mark.slow
@needs_writer_of("HEIF")
@needs_writer_of("AVIF")
def test_hundreds_of_hostile_photos_are_read_or_reported(tmp_path: Path) -> None:
    tried, read = Counter[str](), Counter[str]()
    for cases in CASES:
        for kind, name, content in cases():
            path = tmp_path / name
            path.write_bytes(content)
            tried[kind] += 1
            with no_hang(), memory_bound(MAX_MEMORY_BYTES):
                read[kind] += _reads(path)
            path.unlink()
    assert sum(tried.values()) >= 300
    for kind, count in tried.items():
        print(f"{kind}: {read[kind]} of {count} read")
        if kind.endswith(", read"):
            assert read[kind] == count
        elif kind not in ("bytes changed", "animated", "decompression bombs"):
            assert not read[kind], kind
        assert published(f"| photos: {kind} | {count:,} | nothing |")
    assert read["decompression bombs"] <= 3  # those in metadata, which is not unpacked


def _reads(path: Path) -> bool:
    try:
        pixels = read_photo(path, PREPROCESSING)
    except PhotosError as error:
        assert error.message and error.message.isprintable() and len(error.message) < 300
        return False
    assert pixels.shape == (28, 28, 3)
    return True


# Folders


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "new" / "Coat"
    folder.mkdir(parents=True)
    for photo in REAL[:5]:
        shutil.copy(photo, folder)
    return folder


def _read(folder: Path) -> Any:
    with no_hang():
        return read_photo_folder(folder.parent, PREPROCESSING, PixelCache(0), min_photos=5)


def test_links_out_of_the_folder_and_special_files_are_reported(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    outside = tmp_path / "secret.png"
    shutil.copy(REAL[9], outside)
    (tmp_path / "new" / "up").symlink_to("..")
    for number in range(3):
        (folder / f"link{number}.png").symlink_to((outside, "../up/secret.png", "../../secret.png")[number])
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "memory.png").symlink_to("/proc/self/mem")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("nothing")
    os.mkfifo(folder / "fifo.png")
    (folder / "fifo2.png").symlink_to("fifo.png")
    (folder / "sub.png").mkdir()
    (tmp_path / "new" / "up").unlink()
    (tmp_path / "new" / ".up").symlink_to("..")
    found = _read(folder)
    assert len(found.photos[0]) == 5
    assert len(found.skipped) == 9
    assert sum("out of the folder" in line for line in found.skipped) == 2
    assert published("| photos: links out of the folder, devices, FIFOs | 9 | nothing |")


@pytest.mark.skipif(os.geteuid() != 0 and sys.platform != "linux", reason="runs only on Linux, or as root")
def test_files_that_may_not_be_read_are_reported() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = _folder(Path(name))
        Path(name).chmod(0o755)
        for number in range(3):
            shutil.copy(REAL[10 + number], folder / f"secret{number}.png")
            (folder / f"secret{number}.png").chmod(0)
        (folder.parent / "Hidden").mkdir(mode=0)
        with ordinary_user(), pytest.raises(PhotosError) as caught:
            _read(folder)
        assert "Hidden cannot be read (Permission denied)" in caught.value.problems
        (folder.parent / "Hidden").rmdir()
        with ordinary_user():
            found = _read(folder)
    assert len(found.photos[0]) == 5
    assert found.skipped == tuple(f"Coat/secret{n}.png cannot be read (Permission denied)" for n in range(3))


def test_thousands_of_tiny_files_are_counted(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    for number in range(3_000):
        (folder / f"tiny{number}.jpg").write_bytes(b"x" * (number % 3))
    with memory_bound(64 * 2**20):
        found = _read(folder)
    assert len(found.photos[0]) == 5
    assert len(found.skipped) == 21 and found.skipped[-1] == "and 2,980 more files"
    assert published("| photos: tiny files in one folder | 3,000 | nothing |")


def test_predicting_hostile_photos_reports_them_beside_the_others(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a\nb.jpg").write_bytes(b"no image")
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    os.mkfifo(tmp_path / "fifo.png")
    photos = [*sorted(path for path in tmp_path.iterdir() if path.suffix), REAL[0]]
    with no_hang():
        report = predict(home, photos)
    assert [bool(p.error) for p in report.predictions] == [True, True, True, False]


def test_no_control_character_of_a_file_name_reaches_the_terminal(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2J\nError: all is well \u202egnp.jpg"
    path.write_bytes(b"no image")
    command = [sys.executable, "-m", "lwm_edge", "predict", str(path), str(REAL[0]), "--home", str(home.path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == SOME_PHOTOS_FAILED
    assert "\\x1b[2J" in shown.stderr and "\x1b" not in shown.stderr and "\u202e" not in shown.stderr

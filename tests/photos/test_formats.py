"""HEIC, AVIF, TIFF and very large JPEG photos are read upright, in bounded memory, or refused with advice."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lwm_edge.errors import PhotosError
from lwm_edge.photos import opening
from lwm_edge.photos.decoder_process import DECODER
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.guard import MAX_MEMORY_BYTES, GuardedFile, check_pixels
from lwm_edge.photos.photo_set import PixelCache
from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.photos.reading import read_photo
from tests.support.hostile import memory_bound
from tests.support.writable import needs_writer_of

SIZE = Preprocessing(image_size=32, resize_size=32, mean=(0, 0, 0), std=(1, 1, 1))
COLOURS = np.array(((200, 30, 30), (30, 160, 40), (40, 50, 180), (220, 220, 60)))


def quadrants(scale: int = 8) -> Image.Image:
    """Draws a photo of four rectangles of different colours, each 1.5 times as wide as it is high."""
    pixels = np.repeat(np.repeat(COLOURS.reshape(2, 2, 3), 16 * scale, 0), 24 * scale, 1)
    return Image.fromarray(pixels.astype(np.uint8))


def assert_quadrants(pixels: np.ndarray) -> None:
    found = [pixels[y, x].astype(int) for y in (8, 24) for x in (8, 24)]
    assert np.abs(np.array(found) - COLOURS).max() <= 12


SAVED: dict[str, dict[str, Any]] = {
    "HEIF": {"quality": 95},
    "AVIF": {"quality": 95},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF jpeg": {"compression": "jpeg", "quality": 95},
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=needs_writer_of(k.split()[0])) for k in SAVED])
@pytest.mark.parametrize("turned", [False, True])
def test_the_pixels_are_right_and_upright_whatever_the_file_is_called(
    tmp_path: Path, kind: str, turned: bool
) -> None:
    image, exif = quadrants(), Image.Exif()
    if turned:  # as a camera that was held upright stores it
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    image.save(tmp_path / "photo.jpg", kind.split()[0], exif=exif.tobytes(), **SAVED[kind])
    with memory_bound(MAX_MEMORY_BYTES):
        assert_quadrants(read_photo(tmp_path / "photo.jpg", SIZE))
    assert DECODER._process is not None


@needs_writer_of("HEIF")
def test_a_heif_file_of_another_brand_is_read_too(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "photo.heic", "HEIF", quality=95)
    content = (tmp_path / "photo.heic").read_bytes()
    assert content[8:12] == b"heic"
    (tmp_path / "photo.heic").write_bytes(content[:8] + b"mif1" + content[12:])
    assert_quadrants(read_photo(tmp_path / "photo.heic", SIZE))


@pytest.mark.parametrize(
    "brands", [b"mif1\0\0\0\0mif1mif1", b"msf1\0\0\0\0msf1heic", b"heic\0\0\0\0mif1heic"]
)
def test_a_heif_file_of_any_brand_is_not_called_damaged_if_its_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brands: bytes
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: name != "pillow_heif" or None)
    (tmp_path / "photo.heif").write_bytes(b"\0\0\0\x18ftyp" + brands + bytes(100))
    with pytest.raises(opening.NeedsReaderError, match=r"HEIC.*pip install pillow-heif"):
        read_photo(tmp_path / "photo.heif", SIZE)


def test_a_missing_heic_library_does_not_keep_avif_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: name != "pillow_heif" or None)
    (tmp_path / "photo.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0avifheic" + bytes(100))
    with GuardedFile(tmp_path / "photo.avif") as file:
        assert opening._readable(opening._costly_formats(file)) == ("AVIF",)


def test_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film.heic").write_bytes(b"\0\0\0\x18ftypqt  \0\0\0\0qt  mp42" + bytes(500))
    with pytest.raises(PhotosError, match="is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image"):
        read_photo(tmp_path / "film.heic", SIZE)


def test_the_preview_in_a_raw_photo_is_not_taken_for_the_photo(tmp_path: Path) -> None:
    quadrants(1).save(tmp_path / "photo.dng", "TIFF", tiffinfo={254: 1})
    with pytest.raises(PhotosError, match="is a raw photo, of which only a small preview can be read"):
        read_photo(tmp_path / "photo.dng", SIZE)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_a_tiff_of_values_without_a_known_range_is_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.linspace(0, 1, 4096).reshape(64, 64).astype(kind)).save(tmp_path / "photo.tiff")
    with pytest.raises(PhotosError, match="of them is white; save it as JPEG or PNG"):
        read_photo(tmp_path / "photo.tiff", SIZE)


def test_a_tiff_of_16_bit_grey_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64), 51_400, np.uint16)).save(tmp_path / "photo.tiff")
    assert (read_photo(tmp_path / "photo.tiff", SIZE) == 200).all()


@needs_writer_of("HEIF")
@pytest.mark.parametrize(
    ("count", "line"),
    [
        (1, "1 HEIC photo, Cup/IMG_0.heic, cannot be read without another library: "),
        (4, "4 HEIC photos, such as Cup/IMG_0.heic, cannot be read without another library: "),
    ],
)
def test_one_line_says_how_to_read_heic_if_its_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, line: str
) -> None:
    (tmp_path / "Cup").mkdir()
    for number in range(count):
        quadrants().rotate(number).save(tmp_path / "Cup" / f"IMG_{number}.heic", "HEIF")
    quadrants().save(tmp_path / "Cup" / "photo.png")
    find_spec = importlib.util.find_spec

    def missing(name: str) -> Any:
        return None if name == "pillow_heif" else find_spec(name)

    monkeypatch.setattr(opening, "find_spec", missing)
    found = read_photo_folder(tmp_path, SIZE, PixelCache(0), min_photos=1)
    assert found.skipped == (f"{line}pip install pillow-heif",)
    with pytest.raises(PhotosError) as caught:
        read_photo_folder(tmp_path, SIZE, PixelCache(0), min_photos=2)
    assert caught.value.problems == ("Cup: 1 usable photo; at least 2 are needed", *found.skipped)


def test_a_heic_library_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brands = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "photo.heic").write_bytes(brands + bytes(100))
    (tmp_path / "pillow_heif.py").write_text("raise ImportError('libheif is missing')")
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PhotosError, match=r"cannot be loaded here \(libheif is missing\).*pip install"):
        opening.load_reader_of(tmp_path / "photo.heic")


@pytest.mark.slow
def test_a_large_progressive_jpeg_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Even larger JPEGs are read in `test_hostile_photos`."""
    image = quadrants(1).resize((6_000, 4_000), Image.Resampling.NEAREST)
    image.save(tmp_path / "photo.jpg", quality=90, progressive=True)
    del image
    with memory_bound(MAX_MEMORY_BYTES):
        assert_quadrants(read_photo(tmp_path / "photo.jpg", SIZE))


@pytest.mark.parametrize(
    "kind, options, most",
    [
        ("JPEG", {}, 200),
        ("JPEG", {"progressive": 1}, 110),
        ("WEBP", {}, 20),
        pytest.param("HEIF", {}, 64, marks=needs_writer_of("HEIF")),
    ],
)
def test_a_photo_whose_header_states_too_many_pixels_is_refused_with_advice(
    kind: str, options: dict[str, int], most: int
) -> None:
    side = int((most * 1_000_000) ** 0.5)
    image: Any = SimpleNamespace(width=side, height=side, size=(side, side), info=options, format=kind)
    check_pixels(image)
    image.width = side + 2
    with pytest.raises(PhotosError, match=f"more than {most} megapixels.*; save it with fewer pixels"):
        check_pixels(image)

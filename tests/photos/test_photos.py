"""Photos are read with the right pixels or refused with a reason, then split, cached and augmented."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

import lwm_edge
from lwm_edge.errors import PhotosError
from lwm_edge.photos import decoding, opening
from lwm_edge.photos.folders import PhotoFolder, read_photo_folder
from lwm_edge.photos.guard import GuardedFile, check_pixels
from lwm_edge.photos.photo_set import Photo, PhotoSet, PixelCache, augment, split_held_back
from lwm_edge.photos.pixels import preprocess
from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.photos.reading import read_photo
from lwm_edge.records import Progress

FASHION = Path(lwm_edge.__file__).parent / "demo_data" / "train" / "base"  # 28 x 28, grey
QUADRANTS = ((200, 30, 30), (30, 160, 40), (40, 50, 180), (220, 220, 60))  # of `quadrants`, row by row


def sized(image_size: int, resize_size: int | None = None) -> Preprocessing:
    return Preprocessing(
        image_size=image_size, resize_size=resize_size or image_size, mean=(0, 0, 0), std=(1, 1, 1)
    )


FASHION_SIZE = sized(28)


def real_photos(name: str, count: int) -> list[Path]:
    return sorted((FASHION / name).glob("*.png"))[:count]


def add_class(root: Path, name: str, photos: list[Path]) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for photo in photos:
        shutil.copy(photo, folder)
    return folder


def read(root: Path, min_photos: int = 5, known: tuple[str, ...] = ()) -> PhotoFolder:
    return read_photo_folder(root, FASHION_SIZE, PixelCache(0), min_photos=min_photos, known_classes=known)


def refusal(root: Path, min_photos: int = 5, known: tuple[str, ...] = ()) -> PhotosError:
    with pytest.raises(PhotosError) as caught:
        read(root, min_photos, known)
    return caught.value


def reason(path: Path) -> str:
    """Says why a file cannot be used."""
    with pytest.raises(PhotosError) as caught:
        read_photo(path, FASHION_SIZE)
    return caught.value.message


def quadrants() -> np.ndarray:
    """Draws a photo of 48 x 32 (width x height) whose centre is four squares of different colours."""
    pixels = np.empty((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = QUADRANTS
    return pixels


def assert_quadrants(pixels: np.ndarray, tolerance: int = 6) -> None:
    found = [pixels[y, x].astype(int) for y in (8, 24) for x in (8, 24)]
    assert np.abs(np.array(found) - np.array(QUADRANTS)).max() <= tolerance


# Formats


def test_a_grey_photo_becomes_three_equal_channels_with_its_own_pixels():
    photo = real_photos("Coat", 1)[0]
    with Image.open(photo) as image:
        assert image.mode == "L"
        grey = np.asarray(image)
    assert grey.std() > 10
    np.testing.assert_array_equal(read_photo(photo, FASHION_SIZE), np.stack([grey] * 3, axis=-1))


def test_16_bit_grey_is_scaled_to_8_bits_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        assert image.mode.startswith("I")
    expected = (levels / 257).round().astype(np.uint8)
    assert (expected.min(), expected.max()) == (0, 255)
    pixels = read_photo(tmp_path / "deep.png", sized(8))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], expected)


def test_a_palette_photo_has_its_palettes_colours(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 4, 8))
    image.save(tmp_path / "palette.png")
    pixels = read_photo(tmp_path / "palette.png", sized(8))
    assert (pixels[:, :4] == (10, 20, 30)).all()
    assert (pixels[:, 4:] == (40, 50, 60)).all()


def test_the_transparent_colour_of_a_palette_becomes_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 4, 8))
    image.save(tmp_path / "palette.png", transparency=0)
    pixels = read_photo(tmp_path / "palette.png", sized(8))
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == (40, 50, 60)).all()


@pytest.mark.parametrize("mode, colour", [("1", 0), ("L", 40), ("RGB", (40, 50, 60))])
def test_a_single_transparent_colour_becomes_white(tmp_path, mode, colour):
    Image.new(mode, (8, 8), colour).save(tmp_path / "photo.png", transparency=colour)
    assert (read_photo(tmp_path / "photo.png", sized(8)) == 255).all()
    Image.new(mode, (8, 8), colour).save(tmp_path / "photo.png")
    assert (read_photo(tmp_path / "photo.png", sized(8)) == colour).all()


@pytest.mark.parametrize(
    "alpha, expected", [(0, (255, 255, 255)), (51, (212, 216, 220)), (255, (40, 60, 80))]
)
def test_rgba_is_composited_on_white(tmp_path, alpha, expected):
    Image.new("RGBA", (8, 8), (40, 60, 80, alpha)).save(tmp_path / "photo.png")
    pixels = read_photo(tmp_path / "photo.png", sized(8)).astype(int)
    assert np.abs(pixels - expected).max() <= 1


def test_grey_with_alpha_is_composited_on_white(tmp_path):
    image = Image.new("LA", (8, 8), (40, 255))
    image.paste((40, 0), (0, 0, 4, 8))
    image.save(tmp_path / "photo.png")
    pixels = read_photo(tmp_path / "photo.png", sized(8))
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == 40).all()


def test_a_cmyk_jpeg_has_the_colours_of_its_rgb_original(tmp_path):
    Image.fromarray(quadrants()).convert("CMYK").save(tmp_path / "print.jpg", quality=95, subsampling=0)
    with Image.open(tmp_path / "print.jpg") as image:
        assert image.mode == "CMYK"
    assert_quadrants(read_photo(tmp_path / "print.jpg", sized(32)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_photo_is_read_whatever_its_file_is_called(tmp_path, format):
    Image.fromarray(quadrants()).save(tmp_path / "photo.dat", format, quality=95)
    assert_quadrants(read_photo(tmp_path / "photo.dat", sized(32)), tolerance=12)


STORED_AS = {  # how a camera stores the upright picture, by EXIF orientation
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_an_exif_rotated_jpeg_is_seen_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED_AS[orientation](quadrants()))
    Image.fromarray(stored).save(tmp_path / "photo.jpg", exif=exif, quality=95, subsampling=0)
    assert_quadrants(read_photo(tmp_path / "photo.jpg", sized(32)))


def test_a_large_jpeg_keeps_its_picture_when_it_is_decoded_at_a_lower_scale(tmp_path):
    Image.fromarray(quadrants()).resize((1440, 960), Image.Resampling.NEAREST).save(tmp_path / "photo.jpg")
    assert_quadrants(read_photo(tmp_path / "photo.jpg", sized(32)))


# Files that are not usable photos


@pytest.fixture(scope="module")
def whole_jpeg(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("jpeg") / "photo.jpg"
    with Image.open(real_photos("Coat", 1)[0]) as image:
        image.resize((280, 280)).save(path, quality=90)
    read_photo(path, FASHION_SIZE)
    return path.read_bytes()


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_jpeg_is_refused_wherever_it_ends(tmp_path, whole_jpeg, tenths):
    (tmp_path / "cut.jpg").write_bytes(whole_jpeg[: len(whole_jpeg) * tenths // 10])
    expected = "is empty" if tenths == 0 else ("is damaged (", "is not a JPEG")
    assert reason(tmp_path / "cut.jpg").startswith(expected)


def test_a_truncated_jpeg_is_refused_though_the_app_lets_pillow_accept_it(tmp_path, whole_jpeg, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (tmp_path / "cut.jpg").write_bytes(whole_jpeg[: len(whole_jpeg) // 2])
    (tmp_path / "whole.jpg").write_bytes(whole_jpeg)
    assert reason(tmp_path / "cut.jpg").startswith("is damaged")
    assert read_photo(tmp_path / "whole.jpg", FASHION_SIZE).shape == (28, 28, 3)


def test_truncated_photos_are_listed_and_the_others_are_read(tmp_path, whole_jpeg):
    folder = add_class(tmp_path, "Coat", real_photos("Coat", 5))
    for tenths in range(10):
        (folder / f"cut{tenths}.jpg").write_bytes(whole_jpeg[: len(whole_jpeg) * tenths // 10])
    found = read(tmp_path)
    assert len(found.photos[0]) == 5
    assert [line.split()[0] for line in found.skipped] == [f"Coat/cut{n}.jpg" for n in range(10)]


def test_a_png_with_a_flipped_byte_is_damaged(tmp_path):
    content = bytearray(real_photos("Coat", 1)[0].read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "photo.png").write_bytes(content)
    assert reason(tmp_path / "photo.png").startswith("is damaged (")


@pytest.mark.parametrize("content", [b"hello", b"\0" * 5000, b"%PDF-1.7\n", b"<svg xmlns='x'/>"])
def test_a_file_that_is_not_an_image_is_refused(tmp_path, content):
    (tmp_path / "photo.jpg").write_bytes(content)
    assert reason(tmp_path / "photo.jpg") == "is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image"


@pytest.mark.parametrize("format", ["GIF", "PPM", "ICO"])
def test_a_file_in_another_format_is_refused_even_if_it_is_called_jpg(tmp_path, format):
    Image.fromarray(quadrants()).save(tmp_path / "photo.jpg", format)
    assert reason(tmp_path / "photo.jpg") == "is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image"


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "photo.png").touch()
    assert reason(tmp_path / "photo.png") == "is empty"


def test_a_missing_photo_is_refused(tmp_path):
    assert reason(tmp_path / "photo.png") == "cannot be read (No such file or directory)"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("method", ["__init__", "read"])
def test_a_photo_that_the_system_cannot_read_is_not_called_damaged(tmp_path, monkeypatch, method, number):
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    shutil.copy(real_photos("Coat", 1)[0], tmp_path / "photo.png")
    monkeypatch.setattr(GuardedFile, method, fail)
    assert reason(tmp_path / "photo.png") == f"cannot be read ({os.strerror(number)})"


def test_a_path_that_cannot_be_encoded_is_refused_for_that_reason(tmp_path):
    assert reason(tmp_path / "\ud800.png") == (
        "cannot be read (its path has the character '\\ud800', which cannot be part of a path here)"
    )


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "photo.png")
    assert reason(tmp_path / "photo.png") == "is not a regular file"


def test_a_folder_is_not_read_as_a_photo(tmp_path):
    (tmp_path / "photo.png").mkdir()
    assert reason(tmp_path / "photo.png") == "is not a regular file"


def test_an_overlong_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "photo.png").open("wb") as file:
        file.truncate(256 * 1024 * 1024 + 1)  # sparse
    assert reason(tmp_path / "photo.png") == "is larger than 256 MiB"


@pytest.mark.parametrize("side", [8_001, 10_000, 60_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    start = time.monotonic()
    assert reason(tmp_path / "bomb.png").startswith("has more than 64 megapixels; ")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 101)])
def test_a_very_long_thin_photo_is_refused(tmp_path, size):
    Image.new("L", size).save(tmp_path / "thin.png")
    assert reason(tmp_path / "thin.png") == "is more than fifty times as long as it is wide"


@pytest.mark.parametrize("size", [(1, 50), (98, 2)])
def test_a_photo_up_to_fifty_times_as_long_as_wide_is_read(tmp_path, size):
    Image.new("L", size, 77).save(tmp_path / "thin.png")
    assert (read_photo(tmp_path / "thin.png", FASHION_SIZE) == 77).all()


# The folder


def test_classes_are_sorted_and_labelled_from_first_label(tmp_path):
    add_class(tmp_path, "Dress", real_photos("Dress", 5))
    add_class(tmp_path, "Coat", real_photos("Coat", 6))
    found = read_photo_folder(tmp_path, FASHION_SIZE, PixelCache(0), min_photos=5, first_label=10)
    assert found.class_names == ("Coat", "Dress")
    assert [[photo.label for photo in photos] for photos in found.photos] == [[10] * 6, [11] * 5]
    assert found.photos[0][0].path == tmp_path / "Coat" / "000.png"
    assert found.skipped == ()


def test_a_class_name_is_kept_in_nfc(tmp_path):
    add_class(tmp_path, "Cafe\u0301", real_photos("Coat", 5))
    assert read(tmp_path).class_names == ("Caf\u00e9",)


def test_files_that_are_not_photos_are_skipped_and_listed_with_the_reason(tmp_path):
    folder = add_class(tmp_path / "new", "Coat", real_photos("Coat", 5))
    shutil.copy(real_photos("Dress", 1)[0], tmp_path / "outside.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "outside.png").symlink_to(tmp_path / "outside.png")
    (folder / "words.txt").write_text("hello")
    found = read(tmp_path / "new")
    assert len(found.photos[0]) == 5
    assert found.skipped == (
        "Coat/dangling.png cannot be read (No such file or directory)",
        "Coat/fifo.png is not a regular file",
        "Coat/loop.png cannot be read (Too many levels of symbolic links)",
        "Coat/outside.png is a link that leads out of the folder",
        "Coat/words.txt is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image",
    )


def test_duplicates_in_a_class_are_skipped_and_listed(tmp_path):
    coats = real_photos("Coat", 5)
    shutil.copy(coats[0], add_class(tmp_path, "Coat", coats) / "again.png")
    found = read(tmp_path)
    assert len(found.photos[0]) == 5
    assert found.skipped == ("Coat/again.png is a duplicate of Coat/000.png",)


def test_a_missing_folder_is_refused(tmp_path):
    assert "none does not exist; give a folder" in refusal(tmp_path / "none").message


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "file is not a folder; give a folder" in refusal(tmp_path / "file").message


def test_a_folder_without_sub_folders_is_refused(tmp_path):
    shutil.copy(real_photos("Coat", 1)[0], tmp_path)
    assert "has files but no sub-folders; put the photos into one" in refusal(tmp_path).message


@pytest.mark.parametrize("folder", ["Caf\u00e9", "cAF\u00c9", "CAFE\u0301", "\uff23af\u00e9"])
def test_a_class_that_the_model_knows_is_refused_in_any_spelling(tmp_path, folder):
    add_class(tmp_path, folder, real_photos("Coat", 5))
    assert read(tmp_path, known=("Bag",)).photos
    (problem,) = refusal(tmp_path, known=("Bag", "Caf\u00e9")).problems
    assert problem.startswith(
        f"{folder}: the model already knows the class Caf\u00e9; to add more photos of it"
    )


def test_new_classes_that_look_just_like_others_are_refused(tmp_path):
    for name in ("Co\u034fat", "Bag", "\u0412ag"):
        (tmp_path / name).mkdir()
    invisible, *problems = refusal(tmp_path, known=("Coat",)).problems
    assert invisible.endswith("cannot be a class name: it contains invisible characters; choose another name")
    assert "('Co\\u034fat') looks just like Coat ('Coat')" in problems[0]
    assert "('\\u0412ag') looks just like Bag ('Bag')" in problems[1]


@pytest.mark.parametrize(
    "one, other", [("Coat", "coat"), ("Caf\u00e9", "Cafe\u0301"), ("stra\u00dfe", "STRASSE")]
)
def test_two_folders_of_the_same_name_are_refused(tmp_path, one, other):
    add_class(tmp_path, one, real_photos("Coat", 5))
    add_class(tmp_path, other, real_photos("Dress", 5))
    (problem,) = refusal(tmp_path).problems
    assert repr(one) in problem
    assert repr(other) in problem
    assert problem.endswith("are the same class name; merge the two folders")


def test_an_empty_class_is_refused(tmp_path):
    (tmp_path / "Coat").mkdir()
    assert refusal(tmp_path).problems == ("Coat: 0 usable photos; at least 5 are needed",)


def test_too_few_usable_photos_are_refused_with_the_reasons(tmp_path):
    folder = add_class(tmp_path, "Coat", real_photos("Coat", 4))
    (folder / "bad.png").write_bytes(b"hello")
    shutil.copy(folder / "000.png", folder / "copy.png")
    assert refusal(tmp_path).problems == (
        "Coat: 4 usable photos; at least 5 are needed",
        "Coat/bad.png is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image",
        "Coat/copy.png is a duplicate of Coat/000.png",
    )
    assert len(read(tmp_path, min_photos=4).photos[0]) == 4


def test_a_long_list_of_reasons_is_cut(tmp_path):
    folder = add_class(tmp_path, "Coat", real_photos("Coat", 5))
    for n in range(30):
        (folder / f"bad{n:02}.png").touch()
    skipped = read(tmp_path).skipped
    assert skipped[0] == "Coat/bad00.png is empty"
    assert skipped[19:] == ("Coat/bad19.png is empty", "and 10 more files")


def test_a_class_folder_that_may_not_be_read_is_reported_with_the_other_problems(tmp_path, monkeypatch):
    closed = add_class(tmp_path, "Coat", real_photos("Coat", 5))
    iterdir = Path.iterdir

    def refusing(self: Path):
        if self == closed:  # root can read everything, so a mode of 0 would change nothing
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refusing)
    assert refusal(tmp_path).problems == (
        "Coat: 0 usable photos; at least 5 are needed",
        "Coat cannot be read (Permission denied)",
    )


def test_all_problems_are_reported_at_once(tmp_path):
    add_class(tmp_path, "Bag", real_photos("Trouser", 5))
    add_class(tmp_path, "Coat", real_photos("Coat", 5))
    add_class(tmp_path, "coat", real_photos("Dress", 5))
    add_class(tmp_path, "a\x1b[2Jb", real_photos("Sandal", 5))
    (tmp_path / "Empty").mkdir()
    (add_class(tmp_path, "Few", real_photos("Pullover", 2)) / "bad.jpg").touch()
    error = refusal(tmp_path, known=("Bag",))
    assert error.message == f"{tmp_path} cannot be used"
    assert error.problems == (
        "Bag: the model already knows the class Bag; to add more photos of it, run lwm-edge add-photos "
        f"{tmp_path / 'Bag'} --name Bag; to teach it again, remove it (lwm-edge remove-class Bag) and add it "
        "with all its photos; to use the folders beside it, move this one elsewhere",
        "'a\\x1b[2Jb' cannot be a class name: it contains control or private-use characters; choose "
        "another name",
        "'coat' and 'Coat' are the same class name; merge the two folders",
        "Empty: 0 usable photos; at least 5 are needed",
        "Few: 2 usable photos; at least 5 are needed",
        "Few/bad.jpg is empty",
    )
    assert str(error).count("\n  - ") == 6


def test_control_characters_in_file_names_are_shown_escaped(tmp_path):
    folder = add_class(tmp_path, "Coat", real_photos("Coat", 5))
    (folder / "a\nb.png").touch()
    (folder / "c\x1b[2J.png").touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/d\xff.png")).touch()
    assert read(tmp_path).skipped == (
        "'Coat/a\\nb.png' is empty",
        "'Coat/c\\x1b[2J.png' is empty",
        "Coat/d\\xff.png is empty",
    )


def test_control_characters_in_folder_names_are_shown_escaped(tmp_path):
    add_class(tmp_path, "Coat\n", real_photos("Coat", 2))
    problems = refusal(tmp_path, known=("Coat",)).problems
    assert len(problems) == 3
    assert all(problem.isprintable() for problem in problems)
    assert all(problem.startswith("'Coat\\n'") for problem in problems)


# The held-back split

digests = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=40, unique=True)
shares = st.floats(0.01, 0.5)
seeds = st.integers(0, 2**32)


@settings(deadline=None)
@given(digests, shares, seeds)
def test_the_split_leaves_at_least_one_to_learn_and_loses_none(digests, share, seed):
    photos = [Photo(Path(f"{n}.png"), 0, digest) for n, digest in enumerate(digests)]
    learnt, held_back = split_held_back(photos, share, seed)
    assert len(held_back) == min(max(1, round(len(photos) * share)), len(photos) - 1)
    assert learnt
    assert set(learnt).isdisjoint(held_back)
    assert set(learnt) | set(held_back) == set(photos)


@settings(deadline=None)
@given(digests, shares, seeds, st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_file_names_or_their_order(digests, share, seed, random):
    photos = [Photo(Path(f"{n}.png"), 0, digest) for n, digest in enumerate(digests)]
    renamed = [replace(photo, path=Path(f"{random.random()}.jpg"), label=3) for photo in photos]
    random.shuffle(renamed)
    one, other = split_held_back(photos, share, seed), split_held_back(renamed, share, seed)
    assert [[p.digest for p in part] for part in one] == [[p.digest for p in part] for part in other]


def test_another_seed_holds_back_other_photos():
    photos = [Photo(Path(f"{n}.png"), 0, f"{n:064x}") for n in range(50)]
    assert len({frozenset(split_held_back(photos, 0.2, seed)[1]) for seed in range(10)}) == 10


# Preprocessing


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 40), st.integers(0, 30))
def test_the_centre_of_a_photo_becomes_a_square_of_the_models_size(width, height, size, margin):
    preprocessing = sized(size, size + margin)
    across = np.broadcast_to((np.arange(width) + 0.5) / width * 255, (height, width))
    down = np.broadcast_to(((np.arange(height) + 0.5) / height * 255)[:, None], (height, width))
    image = Image.fromarray(np.stack([across, down, down], axis=-1).astype(np.uint8))
    if max(width, height) > 50 * min(width, height):
        with pytest.raises(PhotosError, match="fifty times"):
            check_pixels(image)
        return
    check_pixels(image)
    pixels = preprocess(image, size, preprocessing.resize_size)
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
    off_by_a_pixel = 255 / preprocessing.resize_size
    assert np.abs(pixels.mean(axis=(0, 1)) - 127.5).max() <= off_by_a_pixel + 2


@settings(deadline=None)
@given(st.integers(0, 100), st.booleans(), st.integers(8, 40), st.integers(0, 30))
def test_the_centre_is_cut_out_exactly_if_nothing_is_scaled(longer, upright, size, margin):
    short = size + margin
    width, height = (short, short + longer) if upright else (short + longer, short)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    cut = preprocess(Image.fromarray(pixels), size, short)
    left, top = (int(value) for value in cut[0, 0, :2])
    np.testing.assert_array_equal(cut, pixels[top : top + size, left : left + size])
    assert 0 <= (width - size - left) - left <= 1
    assert 0 <= (height - size - top) - top <= 1


# Augmentation


def real_set(seed: int | None) -> PhotoSet:
    paths = real_photos("Coat", 12)
    photos = [Photo(path, 0, f"{n:064x}"[::-1]) for n, path in enumerate(paths, start=1)]
    return PhotoSet(photos, FASHION_SIZE, PixelCache(1 << 20), seed)


def test_augmentation_depends_on_neither_order_nor_batch_nor_photos_loaded_before():
    batch = real_set(7).load(range(12), epoch=3)
    photos = real_set(7)
    for index in (5, 0, 11, 5):
        np.testing.assert_array_equal(photos.load([index], epoch=3)[0], batch[index])
    np.testing.assert_array_equal(real_set(7).load(range(11, -1, -1), epoch=3), batch[::-1])


def test_augmentation_does_not_depend_on_file_names_or_labels(tmp_path):
    photos = real_set(7)
    moved = []
    for n, photo in enumerate(photos.photos):
        shutil.copy(photo.path, tmp_path / f"z{n}.png")
        moved.append(replace(photo, path=tmp_path / f"z{n}.png", label=9))
    there = replace(photos, photos=moved)
    np.testing.assert_array_equal(there.load(range(12), epoch=1), photos.load(range(12), epoch=1))


def test_another_epoch_seed_or_photo_is_augmented_differently():
    photos = real_set(7)
    first = photos.load(range(12), epoch=0)
    assert (first != photos.load(range(12), epoch=1)).any()
    assert (first != real_set(8).load(range(12), epoch=0)).any()
    twins = replace(photos, photos=[replace(photo, path=photos.photos[0].path) for photo in photos.photos])
    assert len(np.unique(twins.load(range(12), epoch=0), axis=0)) > 6


def test_photos_are_not_augmented_without_a_seed_or_an_epoch():
    plain = np.stack([read_photo(path, FASHION_SIZE) for path in real_photos("Coat", 12)])
    np.testing.assert_array_equal(real_set(7).load(range(12)), plain)
    np.testing.assert_array_equal(real_set(None).load(range(12), epoch=4), plain)
    assert (real_set(7).load(range(12), epoch=0) != plain).any()


@settings(deadline=None)
@given(seeds)
def test_augmentation_shifts_by_up_to_an_eighth_and_may_flip(seed):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(32), np.arange(32)[:, None]
    shown = augment(pixels, np.random.default_rng(seed)).astype(int)
    assert shown.shape == (32, 32, 3)
    if shown[16, 16, 0] > shown[16, 17, 0]:
        shown = shown[:, ::-1]
    right, down = shown[16, 16, 0] - 16, shown[16, 16, 1] - 16
    assert max(abs(right), abs(down)) <= 4
    np.testing.assert_array_equal(shown[4:28, 4:28], pixels[4 + down : 28 + down, 4 + right : 28 + right])


# The cache


@pytest.mark.parametrize(
    "limit_bytes, kept", [(0, 0), (2351, 0), (2352, 1), (3 * 2352 + 2000, 3), (1 << 20, 6)]
)
def test_the_cache_keeps_as_many_photos_as_fit_its_limit(tmp_path, limit_bytes, kept):
    paths = list(add_class(tmp_path, "Coat", real_photos("Coat", 6)).iterdir())
    cache = PixelCache(limit_bytes)
    read_once = {path: cache.read(path, FASHION_SIZE) for path in paths}
    assert all(pixels.nbytes == 28 * 28 * 3 for pixels in read_once.values())
    for path in paths:
        path.unlink()
    from_memory = 0
    for path in paths:
        try:
            np.testing.assert_array_equal(cache.read(path, FASHION_SIZE), read_once[path])
        except PhotosError:
            continue
        from_memory += 1
    assert from_memory == kept


def test_a_cache_that_forgot_its_photos_reads_them_again_and_can_fill_up(tmp_path):
    (path,) = add_class(tmp_path, "Coat", real_photos("Coat", 1)).iterdir()
    cache = PixelCache(2352)
    kept = cache.read(path, FASHION_SIZE)
    assert cache.read(path, FASHION_SIZE) is kept
    cache.forget()
    again = cache.read(path, FASHION_SIZE)
    assert again is not kept and cache.read(path, FASHION_SIZE) is again


def test_a_cache_takes_no_more_memory_than_it_counts(tmp_path):
    (path,) = add_class(tmp_path, "Coat", real_photos("Coat", 1)).iterdir()
    kept = PixelCache(2352).read(path, FASHION_SIZE)
    assert kept.flags.owndata and kept.nbytes == 2352  # not a view of a larger array that Pillow made


def test_a_cache_with_a_smaller_limit_drops_photos_until_the_rest_fit(tmp_path):
    paths = sorted(add_class(tmp_path, "Coat", real_photos("Coat", 4)).iterdir())
    cache = PixelCache(10 * 2352)
    first, *_ = (cache.read(path, FASHION_SIZE) for path in paths)
    assert cache.held_bytes == 4 * 2352
    cache.limit(2 * 2352 + 1)
    assert cache.held_bytes == 2 * 2352 and cache.read(paths[0], FASHION_SIZE) is first
    cache.limit(0)
    assert cache.held_bytes == 0


def test_a_cache_can_drop_the_photos_that_are_not_used(tmp_path: Path) -> None:
    paths = sorted(add_class(tmp_path, "Coat", real_photos("Coat", 3)).iterdir())
    cache = PixelCache(2 * 2352)
    first, *_ = (cache.read(path, FASHION_SIZE) for path in paths)
    cache.keep_only([paths[0], paths[2]])  # there was no room for the last one
    assert cache.held_bytes == 2352 and cache.read(paths[0], FASHION_SIZE) is first
    assert cache.read(paths[2], FASHION_SIZE) is cache.read(paths[2], FASHION_SIZE)


def test_the_cache_returns_the_same_pixels_as_the_file_and_they_cannot_be_written_to():
    cache = PixelCache(4 * 2352)
    for path in real_photos("Dress", 6) * 2:
        pixels = cache.read(path, FASHION_SIZE)
        np.testing.assert_array_equal(pixels, read_photo(path, FASHION_SIZE))
        assert not pixels.flags.writeable


def test_every_file_is_reported_before_it_is_read_even_one_that_is_left_out(tmp_path: Path) -> None:
    for name, colours in {"a": range(3), "b": range(3, 5)}.items():
        (tmp_path / name).mkdir()
        for colour in colours:
            Image.new("RGB", (30, 30), (colour, 0, 0)).save(tmp_path / name / f"{colour}.png")
    (tmp_path / "b" / "broken.png").write_bytes(b"no image")
    seen: list[Progress] = []
    cache = PixelCache(10**6)

    def look(progress: Progress) -> None:
        assert len(cache._held) <= progress.done  # the next file has not been read yet
        seen.append(progress)

    read_photo_folder(tmp_path, FASHION_SIZE, cache, min_photos=1, on_progress=look)
    assert [(p.phase, p.done, p.total) for p in seen] == [("photos", done, 6) for done in range(7)]
    assert [p.notes for p in seen[:6]] == [()] * 6  # only the last report names what was left out
    assert seen[6].notes == ("b/broken.png is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image",)


def test_threads_that_decode_at_the_same_time_leave_the_apps_warnings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    second_reads, first_is_done = threading.Event(), threading.Event()
    opened, filters = opening.open_photo, list(warnings.filters)

    @contextmanager
    def in_turn(*given: Any) -> Iterator[Image.Image]:
        is_first = threading.current_thread().name == "first"
        if not is_first:
            second_reads.set()
        (second_reads if is_first else first_is_done).wait(10)
        with opened(*given) as image:
            yield image

    def read() -> None:
        decoding.decode(tmp_path / "photo.png", 32, 32)
        if threading.current_thread().name == "first":
            first_is_done.set()

    monkeypatch.setattr(decoding, "open_photo", in_turn)
    first, second = (threading.Thread(target=read, name=name) for name in ("first", "second"))
    first.start()
    second.start()
    first.join()
    second.join()
    assert first_is_done.is_set() and list(warnings.filters) == filters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")
def test_a_process_that_is_forked_while_threads_decode_sees_warnings() -> None:
    begun, done = threading.Event(), threading.Event()
    before = list(warnings.filters)

    def decodes() -> None:
        with decoding.SILENCE:
            begun.set()
            done.wait()

    thread = threading.Thread(target=decodes)
    thread.start()
    begun.wait()
    child = os.fork()
    if not child:
        os._exit(0 if list(warnings.filters) == before else 1)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(warnings.filters) == before


def test_warnings_stay_ignored_until_the_outermost_work_of_a_thread_is_done() -> None:
    before = list(warnings.filters)
    with decoding.SILENCE:
        ignoring = list(warnings.filters)
        with decoding.SILENCE:  # as when a callback classifies a photo
            pass
        assert list(warnings.filters) == ignoring != before
    assert list(warnings.filters) == before

"""deploy/classify.py holds an up-to-date copy of pixels.py, and prepares photos as the package does."""

from __future__ import annotations

import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.photos.reading import read_photo
from tests.support import odd_photos as odd
from tests.support.folders import DEMO_DATA
from tests.support.pages import ROOT

SCRIPT, SOURCE = ROOT / "deploy" / "classify.py", ROOT / "lwm_edge" / "photos" / "pixels.py"
SIZES = ((28, 28), (32, 40), (64, 64), (224, 232))


@pytest.fixture(scope="module")
def preprocess() -> Callable[..., np.ndarray]:
    function: Callable[..., np.ndarray] = runpy.run_path(str(SCRIPT))["preprocess"]
    return function


def test_the_copy_is_not_stale() -> None:
    with_copy = runpy.run_path(str(ROOT / "deploy" / "make_classify.py"))["with_copy"]
    script = SCRIPT.read_text()
    assert with_copy(script, SOURCE.read_text()) == script, "run `python deploy/make_classify.py`"
    changed = SOURCE.read_text().replace("_COARSE = 2", "_COARSE = 3")
    assert with_copy(script, changed) != script


def _noise(mode: str, width: int, height: int) -> Image.Image:
    """Makes a smooth random picture, on which different ways of scaling give different pixels."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, bands), np.uint8)
    image = Image.merge(mode, [Image.fromarray(coarse[..., band]) for band in range(bands)])
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _photos() -> dict[str, bytes]:
    rgb, rgba, exif = _noise("RGB", 300, 200), _noise("RGBA", 300, 200), Image.Exif()
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65_536, (200, 300)).astype(np.uint16))
    saved: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "RGBA.png": (rgba, "PNG", {}),
        "RGBA.webp": (rgba, "WEBP", {"lossless": True}),
        "LA.png": (rgba.convert("LA"), "PNG", {}),
        "palette.png": (rgb.quantize(64), "PNG", {}),
        "palette-transparent.png": (rgb.quantize(64), "PNG", {"transparency": 3}),
        "palette-alphas.png": (rgb.quantize(64), "PNG", {"transparency": bytes(range(0, 256, 4))}),
        "grey-transparent.png": (rgb.convert("L"), "PNG", {"transparency": 90}),
        "one-bit.png": (rgb.convert("1"), "PNG", {}),
        "16-bit.png": (deep, "PNG", {}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "grey.jpg": (rgb.convert("L"), "JPEG", {}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True}),
        "photo.webp": (rgb, "WEBP", {}),
        "photo.bmp": (rgb, "BMP", {}),
        "palette.bmp": (rgb.quantize(64), "BMP", {}),
        "tiny.png": (rgba.resize((3, 2)), "PNG", {}),
        "one-pixel.png": (rgba.resize((1, 1)), "PNG", {}),
        "thin.png": (rgb.resize((500, 10)), "PNG", {}),
        "huge.jpg": (rgb.resize((3_000, 2_000)), "JPEG", {}),
        "huge.png": (rgba.resize((1_999, 1_501)), "PNG", {}),
        "huge-16-bit.png": (deep.resize((1_999, 1_501)), "PNG", {}),
    }
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        for format in ("JPEG", "PNG", "WEBP"):
            saved[f"turned{orientation}.{format}"] = rgb, format, {"exif": exif.tobytes()}
    photos = {name: odd.saved(image, format, **options) for name, (image, format, options) in saved.items()}
    photos["broken-exif.jpg"] = odd.jpeg(odd.exif_segment(b"no TIFF at all"))
    photos["run-length.bmp"] = odd.rle_bmp(100)
    photos["demo.png"] = next((DEMO_DATA / "test").rglob("*.png")).read_bytes()
    return photos


@pytest.mark.slow
def test_classify_prepares_each_photo_as_the_package_does(
    tmp_path: Path, preprocess: Callable[..., np.ndarray]
) -> None:
    for name, content in _photos().items():
        path = tmp_path / name
        path.write_bytes(content)
        for image_size, resize_size in SIZES:
            expected = read_photo(
                path,
                Preprocessing(image_size=image_size, resize_size=resize_size, mean=(0, 0, 0), std=(1, 1, 1)),
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of odd metadata
                with Image.open(path) as image:
                    pixels = preprocess(image, image_size, resize_size)
            np.testing.assert_array_equal(pixels, expected, err_msg=f"{name} at {image_size}")

#!/usr/bin/env python3
"""Classifies photos with an exported classifier.onnx; needs onnxruntime, Pillow and NumPy, not lwm-edge.

    python classify.py classifier.onnx PHOTO...

Photos are prepared as they were for the model's training; the file's metadata says how.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Keeps ONNX Runtime, which reads this when it loads, from reporting to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

# Copied from lwm_edge/photos/pixels.py by make_classify.py; change it there.

Pixels = NDArray[np.uint8]

_COARSE = 2  # large photos are first quickly reduced, to at least this many times the target side
LONG = 3  # a photo more than this many times as long as it is wide loses its ends before it is converted
STRIP_ROWS = 64  # rows of the photo that are converted at once
EXIF_BYTES = 16 * 1024  # enough for the orientation; parsing can take hundreds of times as much memory
_EXIF_CHARACTERS = 3 * EXIF_BYTES  # EXIF_BYTES as lines of hexadecimal digits
_EXIF_AS_TEXT = "Raw profile type exif"  # in older PNG files
_ORIENTATION = 0x0112  # number of the Exif tag
MODES_WITHOUT_RANGE = ("F", "I")  # nobody can tell which of their values is white
_BITS = 258  # number of the TIFF tag BitsPerSample; Pillow passes on 12-bit values as if they were 16-bit
_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnknownRangeError(ValueError):
    """Signals that nobody can tell which of a photo's values are black and white."""


def preprocess(image: Image.Image, image_size: int, resize_size: int) -> Pixels:
    """Turns a photo upright, converts it to RGB, scales it to a given short side and crops the centre.

    Args:
        image: Photo as Pillow opened it; it need not be decoded yet.
        image_size: Height and width of the result.
        resize_size: Length of the photo's short side before the crop.

    Returns:
        RGB [image_size, image_size, 3] uint8.

    Raises:
        UnknownRangeError: The photo may have any values, so it cannot be converted to 8 bits.
    """
    bits = getattr(image, "tag_v2", {}).get(_BITS)
    # older versions of Pillow open a PNG of 16-bit grey in mode I
    if (image.mode in MODES_WITHOUT_RANGE and image.format != "PNG") or bits == (12,):
        raise UnknownRangeError(
            "has 12-bit, 32-bit, signed or floating-point values, so nobody can tell which of them is white; "
            "save it as JPEG or PNG"
        )
    side = resize_size * _COARSE
    image.draft("RGB", (side, side))  # a large JPEG is then decoded at a reduced size, no smaller than this
    image.load()
    upright_by = _UPRIGHT_BY.get(_orientation(image))
    image = _to_reduced_rgb(image, side)
    if upright_by is not None:
        image = image.transpose(upright_by)
    scale = resize_size / min(image.size)
    if scale != 1:
        width, height = (max(resize_size, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)), dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    """Returns the orientation that Exif or XMP gives, or else 1, which means upright."""
    metadata = Image.new("1", (1, 1))  # a new image, for which Pillow has read no Exif yet
    metadata.info = dict(image.info)
    try:
        if "exif" in metadata.info:
            metadata.info["exif"] = metadata.info["exif"][:EXIF_BYTES]
        if len(text := metadata.info.get(_EXIF_AS_TEXT, "")) > _EXIF_CHARACTERS:
            metadata.info[_EXIF_AS_TEXT] = text[:_EXIF_CHARACTERS].rpartition("\n")[0]
        return int(metadata.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged Exif raises SyntaxError, ValueError, struct.error, ...; the pixels are sound
        return 1


def _to_reduced_rgb(image: Image.Image, side: int) -> Image.Image:
    """Shrinks a photo's middle by an integer factor, never to a short side below `side`, and makes it RGB.

    It works strip by strip, so that a large photo is never copied as a whole.
    """
    factor = max(1, min(image.size) // side)
    left, top, right, bottom = _middle(*image.size)
    width, height = (-(-length // factor) for length in (right - left, bottom - top))
    reduced = Image.new("RGB", (width, height))
    rows = max(1, STRIP_ROWS // factor) * factor
    for upper in range(top, bottom, rows):
        strip = image.crop((left, upper, right, min(bottom, upper + rows)))
        reduced.paste(_to_rgb(strip).reduce(factor), (0, (upper - top) // factor))
    return reduced


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """Returns the box of a long photo without its ends, which the centre crop would not show."""
    longest = LONG * min(width, height)
    left, top = (max(0, length - longest) // 2 for length in (width, height))
    return left, top, width - left, height - top


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


# End of the copy.


def main(model: str, photos: list[str]) -> None:
    """Prints the best class of each photo."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    class_names = json.loads(metadata["class_names"])
    preprocessing = json.loads(metadata["preprocessing"])
    threshold = json.loads(metadata["unknown"])["thresholds"]["0.95"]  # null if there were too few photos
    for photo in photos:
        with Image.open(photo) as opened:
            image = preprocess(opened, preprocessing["image_size"], preprocessing["resize_size"])
        probabilities, unknown = session.run(["probabilities", "unknown"], {"image": image[None]})
        best = int(probabilities[0].argmax())
        is_unknown = threshold is not None and unknown[0, 0] > threshold
        doubt = ", but it resembles none of the classes" if is_unknown else ""
        print(f"{photo}: {class_names[best]} {probabilities[0, best]:.1%}{doubt}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])

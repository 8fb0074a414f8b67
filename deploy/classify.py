#!/usr/bin/env python3
"""Classifies photos with an exported classifier.onnx; needs onnxruntime, Pillow and NumPy, not lwm-edge.

    python classify.py classifier.onnx PHOTO...

The preprocessing is the one that the model was trained with, read from the file's metadata.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # ONNX Runtime reads this when it loads, and would otherwise report to its maker
import onnxruntime


def prepare(path: str, image_size: int, resize_size: int) -> np.ndarray:
    """Reads a photo as RGB [image_size, image_size, 3] uint8: short side scaled, centre cut out."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = resize_size / min(image.size)
    if scale != 1:
        size = tuple(max(resize_size, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)), dtype=np.uint8)


def main(model: str, photos: list[str]) -> None:
    """Prints the best class of each photo."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    class_names = json.loads(metadata["class_names"])
    preprocessing = json.loads(metadata["preprocessing"])
    for photo in photos:
        image = prepare(photo, preprocessing["image_size"], preprocessing["resize_size"])
        (probabilities,) = session.run(["probabilities"], {"image": image[None]})
        best = int(probabilities[0].argmax())
        print(f"{photo}: {class_names[best]} {probabilities[0, best]:.1%}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])

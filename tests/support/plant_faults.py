"""Makes tests/planted: photos of four classes with 20 planted faults, from photos that ship in demo_data.

    python -m tests.support.plant_faults

Each class has 30 sound photos. planted.json names the faults. The folder is used to test `lwm-edge check`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

import lwm_edge

TRAIN = Path(lwm_edge.__file__).parent / "demo_data" / "train"
PLANTED = Path(__file__).parents[1] / "planted"
CLASSES = {"Ankle boot": "2", "Bag": "2", "Shirt": "1", "Sneaker": "1"}
FIRST, SOUND = 60, 30  # the photos with the numbers 60 to 89 in demo_data are the sound ones
Change = Callable[[Image.Image], Image.Image]


def source(name: str, number: int) -> Path:
    (folder,) = TRAIN.glob(f"*/{name}")
    return folder / f"{number:03}.png"


def unchanged(image: Image.Image) -> Image.Image:
    return image


def blurred(radius: float) -> Change:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


def with_brightness(factor: float) -> Change:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def contrasted(factor: float) -> Change:
    return lambda image: ImageEnhance.Contrast(image).enhance(factor)


def sized(side: int) -> Change:
    return lambda image: image.resize((side, side))


FAULTS: dict[str, tuple[str, str, int, Change]] = {  # kind, class that it shows, number, and change
    "Ankle boot/blurred.png": ("blurred", "Ankle boot", 90, blurred(2)),
    "Bag/blurred.png": ("blurred", "Bag", 90, blurred(2.5)),
    "Shirt/blurred.png": ("blurred", "Shirt", 90, blurred(3)),
    "Sneaker/blurred.png": ("blurred", "Sneaker", 90, blurred(3.5)),
    "Bag/black.png": ("black", "Bag", 91, with_brightness(0.05)),
    "Shirt/black.png": ("black", "Shirt", 91, with_brightness(0.09)),
    "Sneaker/black.png": ("black", "Sneaker", 91, with_brightness(0.13)),
    "Ankle boot/tiny.png": ("tiny", "Ankle boot", 92, sized(8)),
    "Bag/tiny.png": ("tiny", "Bag", 92, sized(10)),
    "Sneaker/tiny.png": ("tiny", "Sneaker", 92, sized(12)),
    "Ankle boot/060 (1).jpg": ("near-duplicate", "Ankle boot", 60, unchanged),
    "Bag/061 (1).png": ("near-duplicate", "Bag", 61, with_brightness(0.8)),
    "Shirt/062 (1).png": ("near-duplicate", "Shirt", 62, contrasted(1.3)),
    "Sneaker/063 (1).png": ("near-duplicate", "Sneaker", 63, blurred(0.4)),
    "Bag/93.png": ("mislabelled", "Shirt", 93, unchanged),
    "Shirt/94.png": ("mislabelled", "Ankle boot", 94, unchanged),
    "Sneaker/95.png": ("mislabelled", "Bag", 95, unchanged),
    "Ankle boot/96.png": ("mislabelled", "Shirt", 96, unchanged),
    "Bag/97.png": ("mislabelled", "Trouser", 97, unchanged),  # the base knows Trouser, and Sandal (next line)
    "Shirt/98.png": ("mislabelled", "Sandal", 98, unchanged),
}


def plant(folder: Path) -> None:
    """Removes the folder and makes it again."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(FIRST, FIRST + SOUND):
            shutil.copy(source(name, number), folder / name)
    for made, (_, shown, number, change) in FAULTS.items():
        with Image.open(source(shown, number)) as image:
            change(image.convert("L")).save(folder / made, quality=85)
    planted = {made: kind for made, (kind, *_) in FAULTS.items()}
    (folder / "planted.json").write_text(json.dumps(planted, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    plant(PLANTED)

"""Makes tests/planted: photos of four classes with 20 planted faults, from photos that ship in demo_data.

    python -m tests.support.plant_faults

Of each class there are 30 sound photos. planted.json names the faults. `lwm-edge check` is tested on it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

import lwm_edge

TRAIN = Path(lwm_edge.__file__).parent / "demo_data" / "train"
PLANTED = Path(__file__).parents[1] / "planted"
CLASSES = {"Ankle boot": "2", "Bag": "2", "Shirt": "1", "Sneaker": "1"}
FIRST, SOUND = 60, 30  # demo_data's own numbers 60 to 89 are the sound photos
Change = Callable[[Image.Image], Image.Image]


def source(name: str, number: int) -> Path:
    (folder,) = TRAIN.glob(f"*/{name}")
    return folder / f"{number:03}.png"


def faults() -> Iterator[tuple[str, str, Path, Change]]:
    """Yields each fault: its kind, the file to make, the photo to make it from, and how."""
    for number, name in enumerate(CLASSES):
        blur = ImageFilter.GaussianBlur(2 + number / 2)
        yield "blurred", f"{name}/blurred.png", source(name, 90), lambda image, blur=blur: image.filter(blur)
    for number, name in enumerate(("Bag", "Shirt", "Sneaker")):
        dim = 0.05 + 0.04 * number
        yield (
            "black",
            f"{name}/black.png",
            source(name, 91),
            lambda i, dim=dim: ImageEnhance.Brightness(i).enhance(dim),
        )
    for side, name in ((8, "Ankle boot"), (10, "Bag"), (12, "Sneaker")):
        yield (
            "tiny",
            f"{name}/tiny.png",
            source(name, 92),
            lambda image, side=side: image.resize((side, side)),
        )
    yield "near-duplicate", "Ankle boot/060 (1).jpg", source("Ankle boot", 60), lambda image: image
    yield (
        "near-duplicate",
        "Bag/061 (1).png",
        source("Bag", 61),
        lambda i: ImageEnhance.Brightness(i).enhance(0.8),
    )
    yield (
        "near-duplicate",
        "Shirt/062 (1).png",
        source("Shirt", 62),
        lambda i: ImageEnhance.Contrast(i).enhance(1.3),
    )
    yield (
        "near-duplicate",
        "Sneaker/063 (1).png",
        source("Sneaker", 63),
        lambda i: i.filter(ImageFilter.GaussianBlur(0.4)),
    )
    mislabelled = (
        ("Bag", "Shirt", 93),
        ("Shirt", "Ankle boot", 94),
        ("Sneaker", "Bag", 95),
        ("Ankle boot", "Shirt", 96),
        ("Bag", "Trouser", 97),
        ("Shirt", "Sandal", 98),
    )
    for name, shown, number in mislabelled:  # the model knows Trouser and Sandal
        yield "mislabelled", f"{name}/{number}.png", source(shown, number), lambda image: image


def plant(folder: Path) -> None:
    """Makes the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(FIRST, FIRST + SOUND):
            shutil.copy(source(name, number), folder / name)
    planted = {}
    for kind, made, photo, change in faults():
        with Image.open(photo) as image:
            change(image.convert("L")).save(folder / made, quality=85)
        planted[made] = kind
    (folder / "planted.json").write_text(json.dumps(planted, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    plant(PLANTED)

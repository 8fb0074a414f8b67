"""Makes a folder as a phone and several computers would leave it, from photos that ship in demo_data.

    python -m tests.support.phone_folder FOLDER

The folder has photos of two new classes, Bag and Ankle boot, in several formats, and other files of the kinds
that are found in real folders.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from tests.support.plant_faults import blurred, source, with_brightness

ALBUMS = {  # folder: numbers of its photos in demo_data
    "Bag/2025": range(20),
    "Bag/2026/autumn": range(20, 40),
    "Ankle boot": range(20),
    "Ankle boot/from the tablet": range(20, 40),
}
LEFT_BY_MACHINES = ("__MACOSX/Bag/._000.png", ".DS_Store", "Bag/Thumbs.db", "Ankle boot/.DS_Store")


def make(folder: Path) -> None:
    """Makes the folder; it must not exist."""
    for album, numbers in ALBUMS.items():
        (folder / album).mkdir(parents=True)
        for number in numbers:
            shutil.copy(source(album.split("/")[0], number), folder / album)
    for left in LEFT_BY_MACHINES:
        (folder / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / left).write_bytes(b"\0\5\x16\7 left by a machine")
    _save_copy("Bag", 40, folder / "IMG_0040.png")  # loose, beside the class folders
    _save_copy("Bag", 41, folder / "Bag/2025/scan.tiff")
    if find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        _save_copy("Bag", 42, folder / "Bag/2025/IMG_0042.heic")
    broken = folder / "Bag/2025/IMG_0043.jpg"
    _save_copy("Bag", 43, broken)
    broken.write_bytes(broken.read_bytes()[:300])  # a copy that was cut short
    shutil.copy(folder / "Bag/2025/000.png", folder / "Bag/2026/autumn/000 copy.png")
    for name in ("Bag", "Ankle boot"):
        _save_copy("Bag", 44, folder / name / "which.png")  # the same photo in two classes
    with Image.open(source("Bag", 45)) as image:
        blurred(3)(image.convert("L")).save(folder / "Bag/2025/blurred.png")
    with Image.open(source("Ankle boot", 45)) as image:
        with_brightness(0.05)(image.convert("L")).save(folder / "Ankle boot/in the pocket.png")


def _save_copy(name: str, number: int, path: Path) -> None:
    with Image.open(source(name, number)) as image:
        image.convert("RGB").save(path)


if __name__ == "__main__":
    make(Path(sys.argv[1]))

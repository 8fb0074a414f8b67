"""What a simulation works on: a copy of a home's model with more room, and generated photos."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from . import storage
from .bundle import ROWS_BY_CLASS, Bundle, save_bundle
from .errors import ConfigError
from .ledger import Ledger
from .maintenance import init_home
from .manifest import MAX_CAPACITY

PHOTOS_PER_CLASS = 6
_TEXTURE_CELLS = 7


def make_scratch_home(bundle: Bundle, folder: Path, new_classes: int) -> int:
    """A home of the same model with room for more classes, and an empty ledger; returns its capacity."""
    manifest, arrays = bundle.manifest, bundle.arrays()
    capacity = max(manifest.capacity, len(manifest.class_names) + new_classes)
    if capacity > MAX_CAPACITY:
        raise ConfigError(f"{new_classes} new classes do not fit a bundle; at most {MAX_CAPACITY} in all do")
    for name in ROWS_BY_CLASS:
        rows = capacity - manifest.capacity
        arrays[name] = np.pad(arrays[name], [(0, rows), *[(0, 0)] * (arrays[name].ndim - 1)])
    update = {"capacity": capacity, "bundle_bytes": 0, "increment_count": 0, "ledger": Ledger()}
    with tempfile.TemporaryDirectory(dir=folder) as made:
        base = Path(made) / "base.lwm"
        save_bundle(base, arrays, manifest.model_copy(update=update))
        init_home(base, folder / "home")
    return capacity


def generate_photos(folder: Path, increment: int, classes: int, image_size: int) -> None:
    """A photo folder of new classes: random textures, a few for each."""
    for number in range(classes):
        class_folder = folder / f"simulated {increment:05}.{number:03}"
        storage.make_folder(class_folder)
        for photo in range(PHOTOS_PER_CLASS):
            generator = np.random.default_rng([increment, number, photo])
            cells = generator.integers(0, 256, (_TEXTURE_CELLS, _TEXTURE_CELLS, 3), dtype=np.uint8)
            content = BytesIO()
            Image.fromarray(cells).resize((image_size, image_size)).save(content, format="png")
            storage.write_file(class_folder / f"{photo}.png", content.getvalue())

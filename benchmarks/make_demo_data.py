#!/usr/bin/env python3
"""Makes lwm_edge/demo_data: an excerpt of Fashion-MNIST, and the base bundle of `lwm-edge demo`.

    apt-get install dataset-fashion-mnist
    python benchmarks/make_demo_data.py photos    # train/ and test/ as PNG files, and the licence
    python benchmarks/make_demo_data.py base      # base.lwm, trained on train/base
    python benchmarks/make_demo_data.py excerpt FASHION --train 1000 --test 1000    # for protocol.py

The demo's excerpt is the first 100 training and 50 test images of each class in the data set's own order
(Xiao et al. 2017, MIT licence; Debian package dataset-fashion-mnist).
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from lwm_edge import build_base
from lwm_edge.demo import BASE_BUNDLE, BASE_CLASSES, BASE_CONFIG, DEMO_DATA, GROUPS, INCREMENTS

SOURCE = Path("/usr/share/datasets/fashion-mnist")
LICENCE = Path("/usr/share/doc/dataset-fashion-mnist/copyright")
LABELS = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
TRAIN_IMAGES, TEST_IMAGES = 100, 50

app = typer.Typer(add_completion=False, help="Makes photos from Fashion-MNIST, and the demo's base.")


def _read(name: str, header_bytes: int) -> np.ndarray:
    """Reads an IDX file without its header (http://yann.lecun.com/exdb/mnist, "file format")."""
    content = gzip.decompress((SOURCE / name).read_bytes())
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes)


def _write_excerpt(prefix: str, count: int, folder_of: dict[str, Path]) -> None:
    images = _read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = _read(f"{prefix}-labels-idx1-ubyte.gz", 8)
    for index, name in enumerate(LABELS):
        folder_of[name].mkdir(parents=True)
        for number, image in enumerate(images[labels == index][:count]):
            Image.fromarray(image).save(folder_of[name] / f"{number:03d}.png", optimize=True)


@app.command("photos")
def make_photos() -> None:
    """Writes {train,test}/{base,1,2}/<class>/NNN.png and the licence."""
    for split, source, images in (("train", "train", TRAIN_IMAGES), ("test", "t10k", TEST_IMAGES)):
        shutil.rmtree(DEMO_DATA / split, ignore_errors=True)
        groups = zip(GROUPS, (BASE_CLASSES, *INCREMENTS), strict=True)
        folders = {name: DEMO_DATA / split / group / name for group, names in groups for name in names}
        _write_excerpt(source, images, folders)
    (DEMO_DATA / "LICENSE").write_text(LICENCE.read_text())


@app.command("base")
def make_base() -> None:
    """Trains the base bundle, with the seed in BASE_CONFIG."""
    print(build_base(DEMO_DATA / "train" / "base", BASE_BUNDLE, BASE_CONFIG).model_dump_json(indent=2))


@app.command("excerpt")
def make_excerpt(
    folder: Annotated[Path, typer.Argument(help="New folder for train/<class> and test/<class>.")],
    train: Annotated[int, typer.Option(min=1, max=6000, help="Training images of each class.")] = 1000,
    test: Annotated[int, typer.Option(min=1, max=1000, help="Test images of each class.")] = 1000,
) -> None:
    """Writes the first images of each class in class folders, as protocol.py reads them."""
    for split, source, images in (("train", "train", train), ("test", "t10k", test)):
        _write_excerpt(source, images, {name: folder / split / name for name in LABELS})


if __name__ == "__main__":
    app()

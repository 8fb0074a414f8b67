"""Times the reading of photos, and a first and a late increment, for `speed_training.py`."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from speed import ratio, spread

import lwm_edge
from lwm_edge.learning.batches import loaded_batches
from lwm_edge.learning.config import IncrementConfig
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.photos.preprocessing import Preprocessing

INCREMENTS = 20


def in_turn(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times each action once a round, by the given clock, after a first round that only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            started = clock()
            action()
            if number:
                seconds[name].append(clock() - started)
    return seconds


def write_photos(folder: Path, classes: int, photos: int, side: tuple[int, int], seed: int = 0) -> None:
    """Writes JPEG files of textures, which are similar within a class."""
    for number in range(classes):
        (folder / f"class {seed:03}.{number:03}").mkdir(parents=True)
        texture = np.random.default_rng([seed, number]).normal(0, 50, (24, 32, 3))
        for photo in range(photos):
            noise = np.random.default_rng([seed, number, photo]).normal(128, 40, (24, 32, 3))
            cells = (texture + noise).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(cells).resize(side, Image.Resampling.BICUBIC)
            image.save(folder / f"class {seed:03}.{number:03}" / f"{photo:03}.jpg", quality=90)


def measure_reader(photos: Path | None, image_size: int, rounds: int) -> dict[str, Any]:
    """Times an epoch of augmented batches, by the package and by torchvision."""
    from lwm_edge.model.architectures import _torchvision  # noqa: F401, I001  # must come first
    from torch.utils.data import DataLoader
    from torchvision import transforms as t
    from torchvision.datasets import ImageFolder

    with tempfile.TemporaryDirectory() as made:
        folder = photos or Path(made)
        if photos is None:
            write_photos(folder, 5, 40, (1280, 960))
        half = (0.5, 0.5, 0.5)
        preprocessing = Preprocessing(image_size=image_size, resize_size=image_size, mean=half, std=half)
        found = read_photo_folder(folder, preprocessing, PixelCache(0), min_photos=1)
        listed = [photo for group in found.photos for photo in group]
        ours = PhotoSet(listed, preprocessing, PixelCache(0), augmentation_seed=0)
        config = IncrementConfig(epochs=1, batch_size=32)
        shift = round(image_size / 8)
        same = t.Compose(
            [
                t.Resize(image_size),
                t.CenterCrop(image_size),
                t.RandomCrop(image_size, padding=shift, padding_mode="reflect"),
                t.RandomHorizontalFlip(),
                t.PILToTensor(),
            ]
        )
        data = ImageFolder(str(folder), same)
        workers: dict[str, Any] = {
            f"torchvision, {count} workers": DataLoader(
                data, 32, shuffle=True, num_workers=count, persistent_workers=count > 0
            )
            for count in (0, 1, 2)
        }
        actions: dict[str, Callable[[], object]] = {
            "lwm-edge": lambda: sum(len(batch.labels) for batch in loaded_batches(ours, config, prefetch=1))
        }
        for name, loader in workers.items():
            actions[name] = partial(_photos_of, loader)
        torch.set_num_threads(1)
        seconds = in_turn(actions, rounds)
        return {
            "photos": len(listed),
            "image_size": image_size,
            "files": photos.name if photos else "textures of 1280x960",
            "photos_a_second": {
                n: spread([len(listed) / s for s in values]) for n, values in seconds.items()
            },
            "torchvision_by_lwm_edge": {n: ratio(seconds[n], seconds["lwm-edge"]) for n in workers},
        }


def _photos_of(loader: Iterable[Any]) -> int:
    return sum(len(labels) for _, labels in loader)


def measure_stream(base: Path, recipe: str, rounds: int) -> dict[str, Any]:
    """Makes twenty increments of one class each, and then times the first and the last in turn."""
    config = IncrementConfig(recipe=recipe, epochs=2, force=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for number in range(INCREMENTS):
            write_photos(folder / f"photos{number}", 1, 40, (320, 240), number)
        home, each = lwm_edge.init_home(base, folder / "home").home, []
        for number in range(INCREMENTS):
            if number in (0, INCREMENTS - 1):
                shutil.copytree(home, folder / f"before{number}", symlinks=True)
            started = time.perf_counter()
            lwm_edge.add_classes(home, folder / f"photos{number}", config)
            each.append(round(time.perf_counter() - started, 3))
        seconds: dict[int, list[float]] = {0: [], INCREMENTS - 1: []}
        for _ in range(rounds):
            for number, values in seconds.items():
                again = shutil.copytree(folder / f"before{number}", folder / "again", symlinks=True)
                started = time.perf_counter()
                lwm_edge.add_classes(again, folder / f"photos{number}", config)
                values.append(time.perf_counter() - started)
                shutil.rmtree(again)
    first, last = seconds.values()
    return {
        "base": base.name,
        "recipe": recipe,
        "each_s": each,
        "last_by_first": ratio(last, first),
        "first_s": spread(first),
        "last_s": spread(last),
    }

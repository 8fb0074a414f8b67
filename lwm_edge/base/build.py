"""Trains a vendor's base on class folders."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ..learning.running import choose_device
from ..model.architectures.registry import find_architecture
from ..photos.folders import read_photo_folder, split_held_back
from ..photos.listing import list_photos
from ..photos.photo_set import PhotoSet, PixelCache
from ..records import AnyPath, ProgressCallback, ignore_progress
from .choose_levels import possible_levels
from .config import BaseConfig
from .finish import PIXEL_CACHE_BYTES, Material, check_capacity, check_output, finish_base
from .preprocessing import scaled_preprocessing
from .reports import BaseReport
from .start import start_network
from .train import train_base

_MIN_PHOTOS = 5


def build_base(
    photos: AnyPath, output: AnyPath, config: BaseConfig, *, on_progress: ProgressCallback = ignore_progress
) -> BaseReport:
    """Trains a base from class folders and writes its bundle.

    Args:
        photos: Path of a folder with one sub-folder of photos for each class.
        output: Path of the bundle to write; an existing file is replaced.
        config: Settings of the base.
        on_progress: Function that is called at every step and before each photo.

    Raises:
        PhotosError: The folder cannot be learnt from; every problem is listed.
        ArchitectureError: The architecture is unknown or does not fit, or the checkpoint fits another one.
        CapacityError: There are more classes than the capacity allows.
        ConfigError: The weights or the checkpoint do not exist, or the grid does not fit.
        ExportError: The ONNX graph cannot be made or is wrong (ParityError).
    """
    started = time.monotonic()
    photos, output = Path(photos), Path(output)
    check_output(output, photos, config.checkpoint)
    architecture = find_architecture(config.architecture)
    preprocessing = scaled_preprocessing(architecture.preprocessing, config.image_size)
    classes = len(list_photos(photos).classes)
    check_capacity(classes, config)
    network = start_network(architecture, config, classes, preprocessing)  # before the photos, as it is quick
    possible_levels(network, config.grid)  # refuses a grid that does not fit
    cache = PixelCache(PIXEL_CACHE_BYTES)
    folder = read_photo_folder(photos, preprocessing, cache, min_photos=_MIN_PHOTOS, on_progress=on_progress)
    splits = [
        split_held_back(group, config.held_back, config.seed) if config.held_back else (group, ())
        for group in folder.photos
    ]
    material = Material(
        class_names=folder.class_names,
        for_statistics=PhotoSet([], preprocessing, cache),
        learnt=PhotoSet(
            [photo for learn, _ in splits for photo in learn],
            preprocessing,
            cache,
            config.seed if config.augment else None,
        ),
        unseen=PhotoSet([photo for _, held in splits for photo in held], preprocessing, cache),
        warnings=folder.skipped,
    )
    network.to(choose_device(config.device))
    with torch.random.fork_rng(devices=[]):  # stochastic depth draws from the global generator
        torch.manual_seed(config.seed)
        training = train_base(network, material.learnt, config, on_progress)
    return finish_base(network, material, config, output, on_progress, training=training, started=started)

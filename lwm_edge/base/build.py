"""Trains a vendor's base on folders of photos, one for each class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch

from ..model.architectures.registry import find_architecture
from ..model.precision import computing_in, has_bfloat16
from ..model.terms import Precision
from ..photos.folders import read_photo_folder
from ..photos.listing import list_photos
from ..photos.photo_set import PhotoSet, PixelCache, split_held_back
from ..photos.preprocessing import Preprocessing
from ..records import AnyPath, ProgressCallback, ignore_progress
from .averaging import average_weights, train_head
from .choose_levels import possible_levels
from .config import BaseConfig
from .finish import finish_base
from .material import PIXEL_CACHE_BYTES, Material, check_capacity, check_output
from .preprocessing import scaled_preprocessing
from .ranks import Ranks, joined
from .reports import BaseReport
from .saved_training import SavedTraining
from .start import start_network
from .train import train_base

_MIN_PHOTOS = 5


def build_base(
    photos: AnyPath, output: AnyPath, config: BaseConfig, *, on_progress: ProgressCallback = ignore_progress
) -> BaseReport:
    """Trains a base from class folders and writes its bundle.

    If the calling script is started with `torchrun --nproc-per-node N`, N processes train the base together.
    All of them return the report, but only the first one writes the bundle and reports progress. The training
    is saved at the end of an epoch, about once a minute at most; after an interruption, the same call
    continues it. If the head is trained alone at the end, only that part starts over.

    Args:
        photos: Path of a folder with one sub-folder of photos for each class.
        output: Path of the bundle to write; an existing file is replaced.
        config: Settings of the base.
        on_progress: Function that is called at every step and before each photo.

    Raises:
        PhotosError: The folder cannot be learnt from; every problem is listed.
        ArchitectureError: The architecture is unknown or unusable, or the checkpoint is for another one.
        CapacityError: There are more classes than the capacity allows.
        ConfigError: The settings do not fit the network, the photos or the machine; the weights or the
            checkpoint cannot be read; the output cannot be written; or unfinished training of another base is
            in the way.
        GateError: The training diverged.
        ExportError: The ONNX graph cannot be made or is wrong (ParityError).
        HomeError: Writing the bundle or the unfinished training failed.
        ResourceError: Memory or disk space ran out, or another process ended without an error message.
        PeerError: Another process failed; the error that it raised says why.
    """
    with joined() as ranks:
        return _build(Path(photos), Path(output), config, ranks, ranks.reports(on_progress))


def _build(
    photos: Path, output: Path, config: BaseConfig, ranks: Ranks, on_progress: ProgressCallback
) -> BaseReport:
    started = time.monotonic()
    check_output(output, photos, config.checkpoint)
    device = ranks.device(config.device)
    architecture = find_architecture(config.architecture)
    preprocessing = scaled_preprocessing(architecture.preprocessing, config.image_size)
    classes = len(list_photos(photos).classes)
    check_capacity(classes, config)
    # The network is made before the photos are read, so that a mistake in its settings shows at once.
    notes = list[str]()
    network = start_network(architecture, config, classes, preprocessing, notes)
    possible_levels(network, config.grid)  # refuses a grid that does not fit
    material = _read_material(photos, config, preprocessing, notes, ranks, on_progress)
    network.to(device)
    saved = SavedTraining(output, network, material.learnt, config, ranks)
    keeps_weights = config.kept_share > 0 and config.frozen_blocks < len(network.blocks())
    pretrained = deepcopy(network.backbone.state_dict()) if keeps_weights else {}
    # Stochastic depth draws from torch's global generators; the CPU's generator gets its old state back.
    with torch.random.fork_rng(devices=[]), computing_in(_precision(config, device), network):
        torch.manual_seed(config.seed + ranks.rank)
        training = train_base(network, material.learnt, config, saved, ranks, on_progress)
        if keeps_weights:
            average_weights(network, pretrained, config.kept_share)
            train_head(network, material.learnt, config, ranks, on_progress)
    report = finish_base(
        network, material, config, output, on_progress, ranks=ranks, training=training, started=started
    )
    saved.forget()
    return report


def _read_material(
    photos: Path,
    config: BaseConfig,
    preprocessing: Preprocessing,
    notes: Sequence[str],
    ranks: Ranks,
    on_progress: ProgressCallback,
) -> Material:
    """Reads the folder of photos, and holds back some photos of each class if the settings say so."""
    cache = PixelCache(PIXEL_CACHE_BYTES // ranks.local_size)
    folder = read_photo_folder(
        photos,
        preprocessing,
        cache,
        min_photos=_MIN_PHOTOS,
        is_new=lambda name: True,
        on_progress=ranks.reports_shares(on_progress),
        map_files=ranks.map if ranks.size > 1 else None,
    )
    splits = [
        split_held_back(group, config.held_back, config.seed) if config.held_back else (group, ())
        for group in folder.photos
    ]
    return Material(
        class_names=folder.class_names,
        for_statistics=PhotoSet([], preprocessing, cache),
        learnt=PhotoSet(
            [photo for learn, _ in splits for photo in learn],
            preprocessing,
            cache,
            config.seed if config.augment else None,
        ),
        unseen=PhotoSet([photo for _, held in splits for photo in held], preprocessing, cache),
        warnings=(*folder.skipped, *notes),
    )


def _precision(config: BaseConfig, device: torch.device) -> Precision:
    """Chooses the precision to train in; on a CPU, it is bfloat16 only if the settings say so."""
    if config.precision == "auto":
        return "bfloat16" if device.type == "cuda" and has_bfloat16(device) else "float32"
    return config.precision

"""Turns a classifier that is already trained into a vendor's base, for the command `pack`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import ConfigError, PhotosError, shortened
from ..learning.discriminant import Labels
from ..model.architectures.registry import find_architecture
from ..photos.folders import PhotoFolder, read_photo_folder
from ..photos.photo_set import PhotoSet, PixelCache
from ..photos.preprocessing import Preprocessing
from ..records import AnyPath, ProgressCallback, ignore_progress
from .choose_levels import possible_levels
from .config import PackConfig
from .finish import finish_base
from .labels import check_folder_names, check_order, match_folders, read_labels
from .material import PIXEL_CACHE_BYTES, Material, check_capacity, check_output
from .observing import learn_all
from .other_preprocessing import check_preprocessing
from .preprocessing import chosen_preprocessing
from .ranks import Ranks, joined
from .reports import BaseReport
from .start import trained_network

_MIN_PHOTOS = 2  # a class with fewer photos has no spread
_LISTED = 20


def pack_checkpoint(
    checkpoint: AnyPath,
    photos: AnyPath,
    output: AnyPath,
    config: PackConfig,
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> BaseReport:
    """Turns a trained classifier into a base, without training it any further, and writes the bundle.

    Args:
        checkpoint: Path of a torch checkpoint (.pth) of the whole classifier, in any of the usual wrappings.
        photos: Path of a folder of the classifier's training photos, with one sub-folder for each class.
        output: Path of the bundle to write; an existing file is replaced.
        config: Settings of the base.
        on_progress: Function that is called at every step and before each photo.

    Raises:
        PhotosError: A folder cannot be used, the names of its class folders seem to be mixed up, or some
            unseen photos are in another folder too; the problems are listed.
        ArchitectureError: The architecture is unknown or unusable, or the checkpoint is for another one.
        CapacityError: There are more classes than the capacity allows.
        ConfigError: The checkpoint or the labels cannot be read or belong to other classes, the photos
            contradict the order of the labels or the preprocessing, the classifier is no better than chance,
            the grid or the image size does not fit the network, the preprocessing cannot be used, or the
            output cannot be written.
        ExportError: The ONNX graph cannot be made or is wrong (ParityError).
        HomeError: Writing the bundle failed.
        ResourceError: Memory or disk space ran out, or another process ended without an error message.
        PeerError: Another process failed; the error that it raised says why.
    """
    with joined() as ranks:
        report = ranks.reports(on_progress)
        return _pack(Path(checkpoint), Path(photos), Path(output), config, ranks, report)


def _pack(
    checkpoint: Path,
    photos: Path,
    output: Path,
    config: PackConfig,
    ranks: Ranks,
    on_progress: ProgressCallback,
) -> BaseReport:
    started = time.monotonic()
    folders = (photos, config.unseen_photos, config.statistics_photos)
    check_output(output, checkpoint, config.labels, *folders)
    architecture = find_architecture(config.architecture)
    preprocessing, warnings = chosen_preprocessing(architecture, config)
    labels = read_labels(config.labels) if config.labels else None
    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint} is not a file; give the path of a checkpoint (.pth)")
    material = _read_material(photos, labels, config, preprocessing, warnings, ranks, on_progress)
    learnt, class_names = material.learnt, material.class_names
    notes = list[str]()
    network = trained_network(architecture, checkpoint, config, len(class_names), preprocessing, notes)
    material = replace(material, warnings=(*material.warnings, *notes))
    possible_levels(network, config.grid)  # refuses a grid that does not fit

    def predicted(photos: PhotoSet) -> tuple[Labels, Labels]:
        """Returns, for each photo, the row with the highest logit and the row of the photo's class."""
        found = learn_all(network, photos, config.capacity, ranks, on_progress)
        return found.predictions, found.labels

    of_learnt = predicted(learnt)
    ranks.by_first(lambda: check_preprocessing(network, learnt, *of_learnt, on_progress))
    check_order(*of_learnt, class_names)
    for path, others in (
        (config.unseen_photos, material.unseen),
        (config.statistics_photos, material.for_statistics),
    ):
        if path is not None:
            check_folder_names(path, *predicted(others), class_names)
    return finish_base(
        network, material, config, output, on_progress, ranks=ranks, training=None, started=started
    )


def _read_material(
    photos: Path,
    labels: Sequence[str] | None,
    config: PackConfig,
    preprocessing: Preprocessing,
    warnings: Sequence[str],
    ranks: Ranks,
    on_progress: ProgressCallback,
) -> Material:
    """Reads all folders of photos, and labels each photo with the row of its class in the head."""
    cache = PixelCache(PIXEL_CACHE_BYTES // ranks.local_size)
    read = partial(
        read_photo_folder,
        preprocessing=preprocessing,
        cache=cache,
        on_progress=ranks.reports_shares(on_progress),
        map_files=ranks.map if ranks.size > 1 else None,
    )
    folder = read(photos, min_photos=_MIN_PHOTOS)
    class_names = tuple(labels or folder.class_names)
    check_capacity(len(class_names), config)
    where, skipped = str(config.labels or photos), [*folder.skipped]

    def labelled(path: Path, found: PhotoFolder, *, all_needed: bool = True) -> PhotoSet:
        """Labels the photos of a folder with the rows of their classes, and sorts them by row."""
        order = match_folders(path, found.class_names, class_names, where, all_needed=all_needed)
        groups = sorted(zip(order, found.photos, strict=True), key=lambda pair: pair[0])
        photos = [replace(photo, label=label) for label, group in groups for photo in group]
        return PhotoSet(photos, preprocessing, cache)

    def others(path: Path | None, min_photos: int, *, all_needed: bool) -> PhotoSet:
        """Reads another folder of photos of the same classes, if there is one."""
        if path is None:
            return PhotoSet([], preprocessing, cache)
        found = read(path, min_photos=min_photos)
        skipped.extend(found.skipped)
        return labelled(path, found, all_needed=all_needed)

    learnt, unseen = labelled(photos, folder), others(config.unseen_photos, 1, all_needed=False)
    for_statistics = others(config.statistics_photos, _MIN_PHOTOS, all_needed=True)
    _check_unseen(ranks, unseen, learnt, for_statistics)
    return Material(class_names, learnt, unseen, for_statistics, (*skipped, *warnings))


def _check_unseen(ranks: Ranks, unseen: PhotoSet, *others: PhotoSet) -> None:
    """Refuses unseen photos that are in another folder too, even as copies with different metadata."""
    if not unseen.photos:
        return
    known = {key: path for photos in others for path, key in _by_pixels(ranks, photos)}
    twice = [
        f"{path} is the same photo as {known[key]}" for path, key in _by_pixels(ranks, unseen) if key in known
    ]
    if twice:
        raise PhotosError(
            "some unseen photos are in another folder too, so accuracy on them would mean nothing; "
            "remove them from one of the two folders",
            shortened(twice, _LISTED),
        )


def _by_pixels(ranks: Ranks, photos: PhotoSet) -> Iterator[tuple[Path, bytes]]:
    """Pairs the path of each photo with a digest of its pixels as the network sees them."""

    def digest(index: int) -> bytes:
        """Computes the digest of one photo's pixels."""
        return hashlib.sha256(photos.load([index]).tobytes()).digest()

    digests = ranks.map(digest, range(len(photos.photos)))
    return zip((photo.path for photo in photos.photos), digests, strict=True)

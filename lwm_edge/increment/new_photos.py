"""Reads the photos of an increment, and splits them into those to learn from and those held back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..advice import home_option, one_class_command
from ..errors import CapacityError
from ..learning.config import IncrementConfig, MorePhotos
from ..memory import rss_bytes
from ..model.manifest import Manifest
from ..photos.class_folders import advice_on_known_class
from ..photos.class_names import fold_class_name
from ..photos.folders import read_photo_folder
from ..photos.photo_set import PhotoSet, PixelCache, split_held_back
from ..records import ProgressCallback
from ..wording import counted
from .plan import SHARE_FOR_CHECKED_PHOTOS, memory_limit
from .values import NewPhotos


def read_photos(
    home: Path,
    folder: Path,
    manifest: Manifest,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    more: MorePhotos | None,
) -> NewPhotos:
    """Checks and splits the photos; those that fit into a small share of memory stay decoded for later.

    Args:
        home: Path of the home, for advice.
        folder: Path of the folder of photos.
        manifest: Manifest of the model before the increment.
        config: Settings of the increment.
        on_progress: Function that is called before each photo.
        more: Settings for further photos of known classes; None for photos of new classes.

    Raises:
        PhotosError: Some photos or folders cannot be used; the message lists every problem.
        CapacityError: The model has no room for so many classes.
    """
    limit, _ = memory_limit(config)
    # the cache has this limit until the plan sets another
    cache = PixelCache(int(SHARE_FOR_CHECKED_PHOTOS * max(0, limit - rss_bytes())))
    known_names = {fold_class_name(name) for name in manifest.class_names}
    photo_folder = read_photo_folder(
        folder,
        manifest.preprocessing,
        cache,
        min_photos=config.min_photos,
        known_classes=() if more else manifest.class_names,
        advise=_advice_on_unknown(home) if more else _advice_on_known(home, manifest),
        first_label=len(manifest.class_names),
        label_of=_labels_of_known(manifest) if more else None,
        class_name=config.class_name,
        may_be_named=True,
        is_new=lambda name: not more and fold_class_name(name) not in known_names,
        limit_bytes=limit,
        on_progress=on_progress,
    )
    # photos that are left out need not stay in memory
    cache.keep_only(photo.path for photos in photo_folder.photos for photo in photos)
    if not more:
        _check_capacity(home, manifest, photo_folder.class_names)
    splits = [split_held_back(photos, config.held_back, config.seed) for photos in photo_folder.photos]
    to_learn = [photo for learn, _ in splits for photo in learn]
    held_back = [photo for _, held in splits for photo in held]
    seed = config.seed if config.augment else None
    known = [manifest.class_names[photos[0].label] for photos in photo_folder.photos] if more else ()
    return NewPhotos(
        new_classes=() if more else photo_folder.class_names,
        known_classes=tuple(known),
        to_learn=PhotoSet(to_learn, manifest.preprocessing, cache, augmentation_seed=seed),
        held_back=PhotoSet(held_back, manifest.preprocessing, cache),
        skipped=photo_folder.skipped,
    )


def _advice_on_unknown(home: Path) -> Callable[[str, Path], str]:
    """Makes a function that says what to do with photos of a class that the model does not know."""
    return lambda name, folder: f"to teach it, run {one_class_command('add-classes', folder, name, home)}"


def _advice_on_known(home: Path, manifest: Manifest) -> Callable[[str, Path], str]:
    """Makes a function that says what to do with photos of a class that the model already knows."""
    shipped = manifest.class_names[: manifest.shipped_classes]
    may_grow = "add-photos" in manifest.permits
    return lambda name, folder: advice_on_known_class(
        name, folder, home, shipped=name in shipped, may_grow=may_grow or name not in shipped
    )


def _labels_of_known(manifest: Manifest) -> Callable[[str], int | str | None]:
    """Makes a function that returns a class's class_index, or says why the class cannot get more photos.

    For a class that the model does not know, it returns None.
    """
    rows = {fold_class_name(name): row for row, name in enumerate(manifest.class_names)}
    shipped = manifest.shipped_classes if "add-photos" not in manifest.permits else 0

    def label_of(name: str) -> int | str | None:
        """Returns the class_index, or the reason why this class cannot get further photos."""
        row = rows.get(fold_class_name(name))
        if row is not None and row < shipped:
            return "the vendor shipped this class, and does not permit more photos of it (add-photos)"
        return row

    return label_of


def _check_capacity(home: Path, manifest: Manifest, new_classes: tuple[str, ...]) -> None:
    free = manifest.capacity - len(manifest.class_names)
    if len(new_classes) > free:
        raise CapacityError(
            f"{counted(len(new_classes), 'new class does', 'new classes do')} not fit: the model knows "
            f"{len(manifest.class_names)} of at most {manifest.capacity}, so there is room for {free} more; "
            f"remove classes first (lwm-edge remove-class NAME {home_option(home)}), or ask the vendor for a "
            "base of larger capacity"
        )

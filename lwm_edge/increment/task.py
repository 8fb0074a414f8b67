"""Sets up an increment: reads the photos, chooses how to learn them, and makes a plan for this device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..custody.keys import read_private_key
from ..errors import CapacityError, ConfigError
from ..freed_memory import drop_library_pages, freed_memory_kept
from ..home.home import Home
from ..home.trust import require_trusted_model
from ..learning.config import (
    IncrementConfig,
    MorePhotos,
)
from ..memory import peak_rss_bytes, reset_peak_rss, rss_bytes
from ..model.bundle import Bundle
from ..model.manifest import Manifest
from ..photos.class_folders import advice_on_known_class
from ..photos.class_names import fold_class_name
from ..photos.folders import read_photo_folder
from ..photos.guard import MAX_MEMORY_BYTES
from ..photos.photo_set import PhotoSet, PixelCache, split_held_back
from ..photos.reading import decoding_bytes, forget_decoding_peak, separate_decoding_bytes
from ..records import ProgressCallback, StepReporter
from ..wording import counted
from .approach import choose_approach, make_learner, require_usable, warn_about_drift
from .plan import SHARE_FOR_CHECKED_PHOTOS, check_disk, make_plan, memory_limit
from .prediction import USUAL_STEPS
from .reports import PlanReport
from .resume import SavedTraining
from .timing import Timer
from .values import Approach, Learner, NewPhotos


@dataclass(frozen=True)
class Task:
    """Holds an increment that is set up and planned.

    Attributes:
        parent: Bundle of the model before the increment.
        photos: Photos that are learnt, and those that are held back.
        config: Settings of the increment.
        approach: Recipe, and the reason for it.
        learner: Object that learns from the photos.
        plan: Plan of the increment for this device.
        saved: Checkpoint of the training; empty unless it was interrupted.
        warnings: Warnings for the owner.
    """

    parent: Bundle
    photos: NewPhotos
    config: IncrementConfig
    approach: Approach
    learner: Learner
    plan: PlanReport
    saved: SavedTraining
    warnings: tuple[str, ...]


def set_up(
    home: Home,
    folder: Path,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    timer: Timer,
    more: MorePhotos | None = None,
) -> Task:
    """Reads the photos and plans the increment for this device; learns nothing. The caller holds the lock.

    Args:
        home: Model home.
        folder: Path of the folder of photos.
        config: Settings of the increment.
        on_progress: Function that is called at every step.
        timer: Timer of the increment.
        more: Settings for further photos of known classes; None for photos of new classes.

    Raises:
        LwmEdgeError: The bundle, the photos, the settings or this device cannot be used for the increment.
    """
    parent = home.open_bundle()
    require_trusted_model(home, parent.manifest)
    if not more and config.recipe != "auto":
        require_usable(config.recipe, config)
    if config.sign_with:
        read_private_key(config.sign_with)  # so that a bad key is refused before the work, not after it
    reset_peak_rss()
    forget_decoding_peak()
    if more and len(parent.manifest.class_names) == 1:
        only = parent.manifest.class_names[0]
        raise ConfigError(
            f"{only} is the model's only class, so every photo is given that class, and more photos "
            "change nothing; add another class first (lwm-edge add-classes), and then these photos"
        )
    if more and not more.solve_head:
        from .instant import require_solved_head

        require_solved_head(parent)
    # Every photo frees memory that the next one can use; a tight limit must not count it against that one.
    with freed_memory_kept(memory_limit(config)[0] - rss_bytes() > 2 * MAX_MEMORY_BYTES):
        photos = _read_photos(folder, parent.manifest, config, on_progress, more)
    reading = max(0, peak_rss_bytes() - rss_bytes())
    decoding, separate = decoding_bytes(reading), separate_decoding_bytes(reading)
    approach = choose_approach(parent, len(photos.to_learn.photos), config, more)
    steps = 1 + USUAL_STEPS if approach.recipe.trains else USUAL_STEPS
    report = StepReporter("plan", steps, on_progress)
    report()
    learner = make_learner(parent, approach, len(photos.new_classes), config)
    drop_library_pages()  # most of these pages were needed only for importing
    saved = SavedTraining(home.training, parent.manifest, folder, photos.to_learn, config, approach.recipe)
    limit, limit_source = memory_limit(config)
    left_off = None if config.fresh else saved.plan()
    plan = left_off if left_off and _still_fits(left_off, photos, config, limit) else None
    if plan is None:
        job = learner.describe_job(
            photos,
            decoding_bytes=decoding,
            generation_bytes=home.current().bytes(),
            timer=timer,
        )
        job = replace(job, separate_decoding_bytes=separate, before_step=report)
        if left_off:  # training that began in one precision must not continue in another
            job = replace(job, precisions=(left_off.precision,))
        plan = make_plan(job, config, limit, limit_source)
    if not saved.may_save():
        plan = plan.model_copy(update={"checkpoints": False})
    check_disk(home.path, plan)
    photos.to_learn.cache.limit(plan.pixel_cache_bytes)
    warnings = (*learner.warnings, *warn_about_drift(parent, approach, len(photos.to_learn.photos)))
    warnings += home.describe_foreign()
    if left_off and left_off != plan:
        warnings += ("the plan has changed since the interruption, so the result may differ by rounding",)
    return Task(parent, photos, config, approach, learner, plan, saved, warnings)


def _still_fits(plan: PlanReport, photos: NewPhotos, config: IncrementConfig, limit: int) -> bool:
    """Returns whether a stored plan still fits the photos in memory, the settings and the limit.

    A plan that keeps all photos has no room for reading one, so all of them must be in memory again.
    """
    held_bytes = photos.to_learn.cache.held_bytes
    if plan.keeps_all_photos and held_bytes != plan.pixel_cache_bytes:
        return False
    same_size = config.micro_batch_size in (None, plan.micro_batch_size)
    return same_size and plan.predicted_peak_rss_bytes <= limit


def _read_photos(
    folder: Path,
    manifest: Manifest,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    more: MorePhotos | None,
) -> NewPhotos:
    """Checks and splits the photos; those that fit into a small share of memory stay decoded for later."""
    limit, _ = memory_limit(config)
    # the cache has this limit until the plan sets another
    cache = PixelCache(int(SHARE_FOR_CHECKED_PHOTOS * max(0, limit - rss_bytes())))
    photo_folder = read_photo_folder(
        folder,
        manifest.preprocessing,
        cache,
        min_photos=config.min_photos,
        known_classes=() if more else manifest.class_names,
        if_known=_advice_on(manifest),
        first_label=len(manifest.class_names),
        label_of=_labels_of_known(manifest) if more else None,
        class_name=config.class_name,
        may_be_named=True,
        limit_bytes=limit,
        on_progress=on_progress,
    )
    cache.keep_only(photo.path for photos in photo_folder.photos for photo in photos)  # not what is left out
    if not more:
        _check_capacity(manifest, photo_folder.class_names)
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


def _advice_on(manifest: Manifest) -> Callable[[str], str]:
    """Makes a function that says what to do with photos of a class that the model already knows."""
    shipped = manifest.class_names[: manifest.shipped_classes]
    may_grow = "add-photos" in manifest.permits
    return lambda name: advice_on_known_class(
        name, shipped=name in shipped, may_grow=may_grow or name not in shipped
    )


def _labels_of_known(manifest: Manifest) -> Callable[[str], int | str]:
    """Makes a function that returns a class's class_index, or says why the class cannot get more photos."""
    rows = {fold_class_name(name): row for row, name in enumerate(manifest.class_names)}
    shipped = manifest.shipped_classes if "add-photos" not in manifest.permits else 0

    def label_of(name: str) -> int | str:
        """Returns the class_index, or the reason why this class cannot get further photos."""
        row = rows.get(fold_class_name(name))
        if row is None:
            return "the model does not know this class; teach it with lwm-edge add-classes"
        if row < shipped:
            return "the vendor shipped this class, and does not permit more photos of it (add-photos)"
        return row

    return label_of


def _check_capacity(manifest: Manifest, new_classes: tuple[str, ...]) -> None:
    free = manifest.capacity - len(manifest.class_names)
    if len(new_classes) > free:
        raise CapacityError(
            f"{counted(len(new_classes), 'new class does', 'new classes do')} not fit: the model knows "
            f"{len(manifest.class_names)} of at most {manifest.capacity}, so {free} more fit; remove "
            "classes first (lwm-edge remove-class), or ask the vendor for a base of larger capacity"
        )

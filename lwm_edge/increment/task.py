"""Sets up an increment: reads the photos, makes teacher and student, and plans for this device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..custody.keys import read_private_key
from ..errors import CapacityError, ConfigError
from ..home.home import Home
from ..home.trust import require_trusted_model
from ..learning.config import RECIPES, IncrementConfig, choose_recipe
from ..learning.running import choose_device
from ..learning.training import trained_parameters
from ..memory import drop_library_pages, peak_rss_bytes, reset_peak_rss, rss_bytes
from ..model.bundle import Bundle
from ..model.loading import load_network
from ..model.manifest import Manifest
from ..model.network import Network, attention_cells, few_cells_warnings, pools_early
from ..photos.folders import read_photo_folder, split_held_back
from ..photos.photo_set import PhotoSet, PixelCache
from ..photos.reading import decoding_bytes, forget_decoding_peak
from ..records import Progress, ProgressCallback
from .plan import SHARE_FOR_CHECKED_PHOTOS, check_disk, make_plan, memory_limit
from .rehearsal import describe_job
from .reports import PlanReport
from .resume import SavedTraining
from .values import Approach, NewPhotos


@dataclass(frozen=True)
class Task:
    """Holds an increment that is set up and planned.

    Attributes:
        parent: Bundle of the model before.
        photos: Photos of the new classes.
        config: Settings of the increment.
        approach: Recipe, and the reason for it.
        teacher: Network M_{t-1}, on the device that computes.
        student: Network M_t, on the same device, with the new rows of its head in use.
        plan: Plan for going through the photos on this device.
        saved: Checkpoint of the training, if it was interrupted.
        warnings: Warnings for the owner.
    """

    parent: Bundle
    photos: NewPhotos
    config: IncrementConfig
    approach: Approach
    teacher: Network
    student: Network
    plan: PlanReport
    saved: SavedTraining
    warnings: tuple[str, ...]


def set_up(home: Home, folder: Path, config: IncrementConfig, on_progress: ProgressCallback) -> Task:
    """Reads the photos and plans the increment for this device; trains nothing. The caller holds the lock.

    Raises:
        LwmEdgeError: The bundle, the photos, the settings or this device are not fit for the increment.
    """
    parent = home.open_bundle()
    require_trusted_model(home, parent.manifest)
    if config.sign_with:
        read_private_key(config.sign_with)  # so that a bad key is refused before the work, not after it
    reset_peak_rss()
    forget_decoding_peak()
    photos = _read_photos(folder, parent.manifest, config, on_progress)
    decoding = decoding_bytes(max(0, peak_rss_bytes() - rss_bytes()))
    teacher = load_network(parent).to(choose_device(config.device))
    teacher.freeze(config.frozen_blocks)
    cells = attention_cells(teacher)
    approach = _choose_approach(teacher, cells, len(photos.to_learn.photos), parent.manifest, config)
    student = _make_student(teacher, approach, len(photos.new_classes), config)

    on_progress(Progress(phase="plan", done=0, total=1))
    drop_library_pages()  # most of them were needed for importing only
    saved = SavedTraining(home.training, parent.manifest, photos.to_learn, config, approach.recipe)
    limit, limit_source = memory_limit(config)
    left_off = None if config.fresh else saved.plan()
    plan = left_off if left_off and _still_fits(left_off, config, limit) else None
    if plan is None:
        size = home.current().bytes()
        job = describe_job(
            parent, student, teacher, approach, photos, decoding_bytes=decoding, generation_bytes=size
        )
        plan = make_plan(job, config, limit, limit_source)
    if not saved.may_save():
        plan = plan.model_copy(update={"checkpoints": False})
    check_disk(home.path, plan)
    photos.to_learn.cache.limit(plan.pixel_cache_bytes)
    warnings = [*_warnings(approach, teacher, cells, parent.manifest, config), *home.describe_foreign()]
    if left_off and left_off != plan:
        warnings.append("the plan has changed since the interruption, so the result may differ by rounding")
    return Task(parent, photos, config, approach, teacher, student, plan, saved, tuple(warnings))


def _choose_approach(
    teacher: Network, cells: int, photos: int, manifest: Manifest, config: IncrementConfig
) -> Approach:
    d, reads_levels = teacher.head.in_features, teacher.levels is not None
    name, reason = choose_recipe(config, photos, d, cells, reads_levels=reads_levels)
    recipe = RECIPES[name].adjusted(config)
    if recipe.gamma and cells == 1 and pools_early(teacher):
        raise ConfigError(
            "this network pools before its last hidden layer, so its attention maps have a single cell at "
            "any image size, and the attention distillation loss has no effect; use recipe auto or lda"
        )
    if recipe.gamma and cells == 1:
        raise ConfigError(
            f"at {manifest.preprocessing.image_size} px this network's attention maps have a single cell, so "
            "the attention distillation loss has no effect; use recipe lwf-mc or a base made at a larger size"
        )
    return Approach(name, reason, recipe, config.classification or manifest.activation)


def _make_student(teacher: Network, approach: Approach, new_classes: int, config: IncrementConfig) -> Network:
    recipe = approach.recipe
    student = teacher.student(trains=recipe.trains)
    if recipe.trains and not trained_parameters(student, recipe):
        raise ConfigError(
            f"all blocks are frozen, so {approach.name} has nothing to train; freeze fewer, or use recipe lda"
        )
    student.add_classes(new_classes, torch.Generator().manual_seed(config.seed))
    return student


def _warnings(
    approach: Approach, teacher: Network, cells: int, manifest: Manifest, config: IncrementConfig
) -> Iterator[str]:
    """Warns the owner of what the approach cannot do well or leaves unused."""
    if approach.recipe.gamma:
        yield from few_cells_warnings(teacher, cells)
    if not approach.recipe.trains and (idle := config.changed_training_settings()):
        yield f"recipe {approach.name} trains nothing, so these settings have no effect: {', '.join(idle)}"
    if approach.classification != manifest.activation:
        yield (
            f"the base was trained with {manifest.activation} outputs and the increment with "
            f"{approach.classification}"
        )


def _still_fits(plan: PlanReport, config: IncrementConfig, limit: int) -> bool:
    """Returns whether a stored plan can still be followed on this device."""
    same_size = config.micro_batch_size in (None, plan.micro_batch_size)
    return same_size and plan.predicted_peak_rss_bytes <= limit


def _read_photos(
    folder: Path, manifest: Manifest, config: IncrementConfig, on_progress: ProgressCallback
) -> NewPhotos:
    """Checks and splits the photos; those that fit a small share of the memory stay decoded for later."""
    limit, _ = memory_limit(config)
    cache = PixelCache(
        int(SHARE_FOR_CHECKED_PHOTOS * max(0, limit - rss_bytes()))
    )  # until the plan sets the limit
    photo_folder = read_photo_folder(
        folder,
        manifest.preprocessing,
        cache,
        min_photos=config.min_photos,
        known_classes=manifest.class_names,
        first_label=len(manifest.class_names),
        limit_bytes=limit,
        on_progress=on_progress,
    )
    _check_capacity(manifest, photo_folder.class_names)
    splits = [split_held_back(photos, config.held_back, config.seed) for photos in photo_folder.photos]
    to_learn = [photo for learn, _ in splits for photo in learn]
    held_back = [photo for _, held in splits for photo in held]
    seed = config.seed if config.augment else None
    return NewPhotos(
        new_classes=photo_folder.class_names,
        to_learn=PhotoSet(to_learn, manifest.preprocessing, cache, augmentation_seed=seed),
        held_back=PhotoSet(held_back, manifest.preprocessing, cache),
        skipped=photo_folder.skipped,
    )


def _check_capacity(manifest: Manifest, new_classes: tuple[str, ...]) -> None:
    free = manifest.capacity - len(manifest.class_names)
    if len(new_classes) > free:
        raise CapacityError(
            f"{len(new_classes)} new classes do not fit: the model knows {len(manifest.class_names)} of "
            f"at most {manifest.capacity}, so {free} more fit; remove classes first (lwm-edge remove-class), "
            "or ask the vendor for a base of larger capacity"
        )

"""An increment set up: photos read, teacher and student side by side, and a plan for this device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..custody.keys import read_private_key
from ..errors import CapacityError, ConfigError
from ..home.home import Home
from ..home.trust import require_trusted_model
from ..learning.config import RECIPES, IncrementConfig, Recipe, RecipeName, choose_recipe
from ..learning.running import choose_device
from ..learning.training import TrainingState, trained_parameters
from ..memory import drop_library_pages, peak_rss_bytes, reset_peak_rss, rss_bytes
from ..model.bundle import Bundle
from ..model.loading import load_network
from ..model.manifest import Activation, Manifest
from ..model.network import Network, attention_cells, few_cells_warnings
from ..photos.folders import read_photo_folder, split_held_back
from ..photos.photo_set import PhotoSet, PixelCache
from ..records import Progress, ProgressCallback
from .plan import check_disk, make_plan, memory_limit
from .rehearsal import rehearse
from .reports import PlanReport
from .resume import SavedTraining


@dataclass(frozen=True)
class Lesson:
    """The photos of an increment.

    Attributes:
        new_classes: Names, in the order of their class_index.
        to_learn: Photos to learn from.
        held_back: Photos for evaluation.
        skipped: Files left out.
    """

    new_classes: tuple[str, ...]
    to_learn: PhotoSet
    held_back: PhotoSet
    skipped: tuple[str, ...]


@dataclass
class Task:
    """An increment, set up and planned.

    Attributes:
        parent: The bundle before.
        lesson: The photos.
        config: The settings.
        teacher: M_{t-1}, on the device.
        student: M_t, on the device, the new rows of its head in use.
        name: Of the recipe.
        reason: Why this one.
        recipe: With the user's own numbers.
        classification: Kind of L_C.
        plan: For this device.
        saved: Where the training left off, if it was interrupted.
        state: Read from there.
        warnings: What the owner should know.
    """

    parent: Bundle
    lesson: Lesson
    config: IncrementConfig
    teacher: Network
    student: Network
    name: RecipeName
    reason: str
    recipe: Recipe
    classification: Activation
    plan: PlanReport
    saved: SavedTraining
    state: TrainingState | None
    warnings: list[str]


def set_up(home: Home, folder: Path, config: IncrementConfig, on_progress: ProgressCallback) -> Task:
    """Reads the photos and finds the way that fits this device; nothing is trained. Call it under the lock.

    Raises:
        LwmEdgeError: The bundle, the photos, the settings or this device cannot be worked with.
    """
    parent = home.open_bundle()
    require_trusted_model(home, parent.manifest)
    if config.sign_with:
        read_private_key(config.sign_with)  # refused before any work, not after it
    on_progress(Progress(phase="photos", done=0, total=1))
    reset_peak_rss()
    lesson = _read_lesson(folder, parent.manifest, config)
    decoding_bytes = max(0, peak_rss_bytes() - rss_bytes())
    teacher = load_network(parent).to(choose_device(config.device))
    teacher.freeze(config.frozen_blocks)
    cells, photos = attention_cells(teacher), len(lesson.to_learn.photos)
    name, reason = choose_recipe(
        config, photos, teacher.head.in_features, cells, reads_levels=teacher.levels is not None
    )
    recipe = RECIPES[name].adjusted(config)
    classification = config.classification or parent.manifest.activation
    warnings = _check_attention(cells, parent.manifest, recipe.gamma)
    warnings += _check_settings(config, name)
    warnings += _check_classification(classification, parent.manifest.activation)
    student = teacher.student(trains=recipe.trains)
    if recipe.trains and not trained_parameters(student, recipe):
        raise ConfigError(f"all blocks are frozen, so {name} has nothing to train; freeze fewer, or take lda")
    student.add_classes(len(lesson.new_classes), torch.Generator().manual_seed(config.seed))

    on_progress(Progress(phase="plan", done=0, total=1))
    drop_library_pages()  # most of them were for importing
    saved = SavedTraining(home.training, parent.manifest, lesson.to_learn, config, recipe)
    limit, limit_source = memory_limit(config)
    plan, state = (None, None) if config.fresh else saved.load() or (None, None)
    if plan and not _still_fits(plan, config, limit):
        warnings.append("the plan changed since the interruption, so the result is the same but for rounding")
        plan = None
    if plan is None:
        size = home.current().bytes()
        job = rehearse(parent, student, teacher, recipe, classification, photos, decoding_bytes, size)
        plan = make_plan(job, config, limit, limit_source)
    if not saved.may_save():
        plan = plan.model_copy(update={"checkpoints": False})
    warnings += home.left_alone()
    check_disk(home.path, plan)
    lesson.to_learn.cache.limit_bytes = plan.pixel_cache_bytes
    return Task(
        parent=parent,
        lesson=lesson,
        config=config,
        teacher=teacher,
        student=student,
        name=name,
        reason=reason,
        recipe=recipe,
        classification=classification,
        plan=plan,
        saved=saved,
        state=state,
        warnings=warnings,
    )


def _still_fits(plan: PlanReport, config: IncrementConfig, limit: int) -> bool:
    """Whether a plan that was stored can be followed here and now."""
    same_size = config.micro_batch_size in (None, plan.micro_batch_size)
    return same_size and plan.predicted_peak_rss_bytes <= limit


def _read_lesson(folder: Path, manifest: Manifest, config: IncrementConfig) -> Lesson:
    cache = PixelCache(0)  # until the plan says how much it may hold
    photo_folder = read_photo_folder(
        folder,
        manifest.preprocessing,
        cache,
        least_photos=config.least_photos,
        known_classes=manifest.class_names,
        first_label=len(manifest.class_names),
    )
    _check_capacity(manifest, photo_folder.class_names)
    splits = [split_held_back(photos, config.held_back, config.seed) for photos in photo_folder.photos]
    to_learn = [photo for learn, _ in splits for photo in learn]
    held_back = [photo for _, held in splits for photo in held]
    seed = config.seed if config.augment else None
    return Lesson(
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
            f"at most {manifest.capacity}, so {free} more; remove classes first (lwm-edge remove-class) "
            "or ask the vendor for a base of larger capacity"
        )


def _check_attention(cells: int, manifest: Manifest, gamma: float) -> list[str]:
    size = manifest.preprocessing.image_size
    if gamma and cells == 1:
        raise ConfigError(
            f"at {size} px this network's attention maps have a single cell, so the attention "
            "distillation loss says nothing; use recipe lwf-mc, or a base made at a larger image size"
        )
    return few_cells_warnings(cells, size) if gamma else []


def _check_settings(config: IncrementConfig, recipe: RecipeName) -> list[str]:
    if RECIPES[recipe].trains or not (idle := config.of_training()):
        return []
    return [f"recipe {recipe} trains nothing, so these settings change nothing: {', '.join(idle)}"]


def _check_classification(classification: Activation, trained_as: Activation) -> list[str]:
    if classification == trained_as:
        return []
    return [f"the base was trained with {trained_as} outputs and the increment with {classification}"]

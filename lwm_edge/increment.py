"""One increment, from photos to commit: the main job, in this process.

`worker.add_classes` runs it in a process of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .bundle import ONNX_GRAPH, Bundle, network_arrays
from .class_statistics import COVARIANCE, MEANS, PHOTOS, ClassStatistics, FeatureMap
from .config import RECIPES, IncrementConfig, Recipe, RecipeName, choose_recipe
from .drift import measure_drift
from .errors import CapacityError, ConfigError
from .evaluation import evaluate_predictions
from .export import PARITY_BATCH_SIZES
from .generation import commit, prepare
from .home import Home
from .manifest import Activation, Manifest
from .measurement import MemoryUse
from .memory import out_of_memory_explained
from .network import Network, attention_cells, few_cells_warnings
from .photo_folders import read_photo_folder, split_held_back
from .photos import PhotoSet, PixelCache
from .reports import IncrementReport, Progress, ProgressCallback, TrainingReport
from .training import choose_device, pooled_features, predict_labels, train_increment

PIXEL_CACHE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class _Lesson:
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


@dataclass(frozen=True)
class _Learnt:
    """What learning the lesson left.

    Attributes:
        teacher: M_{t-1}, on the device.
        student: M_t, on the device.
        statistics: Of all classes, on the student's features.
        recipe: Its name.
        reason: Why this one.
        weights: Its beta and gamma.
        training: None where the backbone stayed.
        warnings: What the owner should know.
    """

    teacher: Network
    student: Network
    statistics: ClassStatistics
    recipe: RecipeName
    reason: str
    weights: Recipe
    training: TrainingReport | None
    warnings: tuple[str, ...]


def learn_classes(
    home: Home, folder: Path, config: IncrementConfig, on_progress: ProgressCallback
) -> IncrementReport:
    """Teaches the home's model the classes in a photo folder; see `worker.add_classes`."""
    started = time.monotonic()
    with home.lock(), out_of_memory_explained(), MemoryUse.measured() as use:
        onnx_bytes_before = home.current().onnx_bytes()
        parent = home.open_bundle()
        on_progress(Progress(phase="photos", done=0, total=1))
        lesson = _read_lesson(folder, parent.manifest, config)
        learnt = _learn(parent, lesson, config, on_progress)

        on_progress(Progress(phase="evaluate", done=0, total=1))
        manifest = parent.manifest.model_copy(
            update={
                "class_names": (*parent.manifest.class_names, *lesson.new_classes),
                "recipe": learnt.recipe,
                "parent_digest": parent.manifest.model_digest,
                "increment_count": parent.manifest.increment_count + 1,
            }
        )
        batch_size = config.micro_batch_size
        accuracy = evaluate_predictions(
            predict_labels(learnt.student, lesson.held_back, batch_size),
            np.array(lesson.held_back.labels),
            manifest.class_names,
            manifest.shipped_classes,
        )
        drift = measure_drift(learnt.student, learnt.teacher, lesson.held_back, batch_size)

        on_progress(Progress(phase="commit", done=0, total=1))
        compared = lesson.held_back.load(range(min(len(lesson.held_back.photos), max(PARITY_BATCH_SIZES))))
        lesson.to_learn.cache.forget()  # what is left of the photos now is counted
        candidate = prepare(
            {**parent.arrays(ONNX_GRAPH), **network_arrays(learnt.student), **learnt.statistics.to_arrays()},
            manifest,
            learnt.student.cpu(),
            parent,
            compared,
            use,
            started=started,
            onnx_bytes_before=onnx_bytes_before,
        )
        receipt = IncrementReport(
            home=home.path,
            recipe=learnt.recipe,
            recipe_reason=learnt.reason,
            beta=learnt.weights.beta,
            gamma=learnt.weights.gamma,
            new_classes=lesson.new_classes,
            class_names=manifest.class_names,
            photos_trained=len(lesson.to_learn.photos),
            photos_held_back=len(lesson.held_back.photos),
            skipped=lesson.skipped,
            training=learnt.training,
            held_back=accuracy,
            drift=drift,
            parity=candidate.parity,
            footprint=candidate.footprint,
            onnx=home.onnx,
            model_digest=candidate.manifest.model_digest,
            parent_digest=parent.manifest.model_digest,
            warnings=learnt.warnings,
            seconds=time.monotonic() - started,
        )
        commit(home, candidate, receipt)
        return receipt


def _read_lesson(folder: Path, manifest: Manifest, config: IncrementConfig) -> _Lesson:
    cache = PixelCache(PIXEL_CACHE_BYTES)
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
    return _Lesson(
        new_classes=photo_folder.class_names,
        to_learn=PhotoSet(to_learn, manifest.preprocessing, cache, augmentation_seed=seed),
        held_back=PhotoSet(held_back, manifest.preprocessing, cache),
        skipped=photo_folder.skipped,
    )


def _learn(
    parent: Bundle, lesson: _Lesson, config: IncrementConfig, on_progress: ProgressCallback
) -> _Learnt:
    device = choose_device(config.device)
    teacher = parent.network().to(device)
    student = parent.network(trainable=True).to(device)
    statistics = ClassStatistics.from_arrays(parent.arrays(MEANS, COVARIANCE, PHOTOS))
    photos, labels = lesson.to_learn, np.array(lesson.to_learn.labels)
    N, classes = teacher.classes, teacher.classes + len(lesson.new_classes)
    name, reason = choose_recipe(config, len(labels), student.head.in_features, attention_cells(student))
    recipe = RECIPES[name].adjusted(config)
    classification = config.classification or parent.manifest.activation
    warnings = _check_attention(student, recipe.gamma)
    warnings += _check_classification(classification, parent.manifest.activation)

    features = pooled_features(teacher, photos, config.micro_batch_size)
    own_head = teacher.head_weight, teacher.head.bias[:N]
    if recipe.head == "solved":
        solved = statistics.copy()
        solved.learn(features, labels)
        weight, bias = (torch.from_numpy(array) for array in solved.solve_head(classes))
        student.set_head(weight, bias)
        teacher.set_head(weight[:N], bias[:N])  # both nets judge by the same head, so only features differ
    else:
        student.add_classes(len(lesson.new_classes), torch.Generator().manual_seed(config.seed))

    training = None
    if recipe.trains:
        training = train_increment(student, teacher, photos, config, recipe, classification, on_progress)
        before, features = features, pooled_features(student, photos, config.micro_batch_size)
        statistics.carry(FeatureMap.fit(before, features), N)
    statistics.learn(features, labels)
    if recipe.head == "solved":
        student.set_head(*(torch.from_numpy(array) for array in statistics.solve_head(classes)))
        teacher.set_head(*own_head)
    return _Learnt(teacher, student, statistics, name, reason, recipe, training, tuple(warnings))


def _check_capacity(manifest: Manifest, new_classes: tuple[str, ...]) -> None:
    free = manifest.capacity - len(manifest.class_names)
    if len(new_classes) > free:
        raise CapacityError(
            f"{len(new_classes)} new classes do not fit: the model knows {len(manifest.class_names)} of "
            f"at most {manifest.capacity}, so {free} more; remove classes first (lwm-edge remove-class) "
            "or ask the vendor for a base of larger capacity"
        )


def _check_attention(network: Network, gamma: float) -> list[str]:
    cells = attention_cells(network)
    size = network.preprocessing.image_size
    if gamma and cells == 1:
        raise ConfigError(
            f"at {size} px this network's attention maps have a single cell, so the attention "
            "distillation loss says nothing; use recipe lwf-mc, or a base made at a larger image size"
        )
    return few_cells_warnings(cells, size) if gamma else []


def _check_classification(classification: Activation, trained_as: Activation) -> list[str]:
    if classification == trained_as:
        return []
    return [f"the base was trained with {trained_as} outputs and the increment with {classification}"]

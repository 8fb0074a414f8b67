"""One increment, from photos to a staged model: the main job, in this process.

`worker.add_classes` runs it in a process of its own, and `generation.commit_increment` in another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .bundle import ONNX_GRAPH, Bundle, network_arrays, save_bundle
from .class_statistics import COVARIANCE, MEANS, PHOTOS, ClassStatistics, FeatureMap
from .config import RECIPES, IncrementConfig, Recipe, RecipeName, choose_recipe
from .drift import measure_drift
from .errors import CapacityError, ConfigError, GateError, StoppedError
from .evaluation import evaluate_predictions
from .export import PARITY_BATCH_SIZES, parity_probe
from .generation import StagedIncrement
from .home import Home
from .keys import read_private_key
from .manifest import Activation, Manifest
from .measurement import MemoryUse
from .memory import (
    drop_mapped_pages,
    freed_memory_kept,
    out_of_memory_explained,
    peak_rss_bytes,
    reset_peak_rss,
    rss_bytes,
)
from .network import Network, attention_cells, few_cells_warnings
from .photo_folders import read_photo_folder, split_held_back
from .photos import PhotoSet, PixelCache
from .plan import check_disk, make_plan, memory_limit
from .rehearsal import rehearse
from .reports import (
    DriftReport,
    EvaluationReport,
    MemoryReport,
    PlanReport,
    Progress,
    ProgressCallback,
    TrainingReport,
    ignore_progress,
)
from .resume import SECONDS_BETWEEN_SAVES, SavedTraining
from .training import (
    TrainingState,
    choose_device,
    pooled_features,
    predict_labels,
    train_increment,
    trained_parameters,
)
from .trust import require_trusted_model

_MUCH_FORGOTTEN = 0.7
_UNPREDICTED = 0.02  # of the predicted peak


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


@dataclass
class _Task:
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
    lesson: _Lesson
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


def plan_increment(home: Home, folder: Path, config: IncrementConfig) -> PlanReport:
    """What teaching the photos' classes would take here. Call it under the home's lock."""
    with out_of_memory_explained():
        return _set_up(home, folder, config, ignore_progress).plan


def learn_classes(
    home: Home,
    folder: Path,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    should_stop: Callable[[], bool] = lambda: False,
) -> StagedIncrement:
    """Teaches the photos' classes and stages the model that knows them. Call it under the home's lock.

    Args:
        home: The model home.
        folder: One sub-folder of photos a class.
        config: The settings.
        on_progress: Called at every step.
        should_stop: Asked after every step; once it says so, the training is saved and stopped.

    Raises:
        StoppedError: As asked.
        LwmEdgeError: As `worker.add_classes` says.
    """
    started = time.monotonic()
    with out_of_memory_explained(), MemoryUse.measured() as use:
        task = _set_up(home, folder, config, on_progress)
        if config.fresh:
            task.saved.remove()
        with freed_memory_kept(task.plan.keeps_freed_memory):
            training, statistics = _learn(task, on_progress, should_stop)
        on_progress(Progress(phase="evaluate", done=0, total=1))
        parent, lesson, batch_size = task.parent.manifest, task.lesson, task.plan.micro_batch_size
        class_names = (*parent.class_names, *lesson.new_classes)
        accuracy = evaluate_predictions(
            predict_labels(task.student, lesson.held_back, batch_size),
            np.array(lesson.held_back.labels),
            class_names,
            parent.shipped_classes,
        )
        estimates = _estimate(task, statistics)
        drift = measure_drift(task.student, task.teacher, lesson.held_back, batch_size, estimates)
        warnings = (*task.warnings, *_pass_gate(config, accuracy, drift))

        on_progress(Progress(phase="stage", done=0, total=1))
        examples = lesson.held_back.photos[: max(PARITY_BATCH_SIZES)]
        probe = parity_probe(task.student, lesson.held_back.load(range(len(examples))))
        manifest = parent.model_copy(
            update={
                "class_names": class_names,
                "recipe": task.name,
                "parent_digest": parent.model_digest,
                "increment_count": parent.increment_count + 1,
            }
        )
        arrays = {
            **task.parent.arrays(ONNX_GRAPH),
            **network_arrays(task.student),
            **statistics.to_arrays(),
        }
        staged = home.stage()
        save_bundle(staged.bundle, arrays, manifest)
        lesson.to_learn.cache.forget()  # what is left of the photos now is counted
        memory = use.report(task.student, probe.images)
        warnings += _check_prediction(task.plan, memory)
    return StagedIncrement(
        folder=staged.path,
        examples=tuple(photo.path for photo in examples),
        logits=tuple(tuple(row) for row in probe.logits.tolist()),
        seconds=time.monotonic() - started,
        memory=memory,
        sign_with=config.sign_with,
        receipt={
            "recipe": task.name,
            "recipe_reason": task.reason,
            "beta": task.recipe.beta,
            "gamma": task.recipe.gamma,
            "new_classes": lesson.new_classes,
            "photos_trained": len(lesson.to_learn.photos),
            "photos_held_back": len(lesson.held_back.photos),
            "skipped": lesson.skipped,
            "plan": task.plan.model_dump(),
            "training": training.model_dump() if training else None,
            "held_back": accuracy.model_dump(),
            "drift": drift.model_dump(),
            "warnings": warnings,
        },
    )


def _set_up(home: Home, folder: Path, config: IncrementConfig, on_progress: ProgressCallback) -> _Task:
    parent = home.open_bundle()
    require_trusted_model(home, parent.manifest)
    if config.sign_with:
        read_private_key(config.sign_with)  # refused before any work, not after it
    on_progress(Progress(phase="photos", done=0, total=1))
    reset_peak_rss()
    lesson = _read_lesson(folder, parent.manifest, config)
    decoding_bytes = max(0, peak_rss_bytes() - rss_bytes())
    teacher = parent.network().to(choose_device(config.device))
    teacher.freeze(config.frozen_blocks)
    cells, photos = attention_cells(teacher), len(lesson.to_learn.photos)
    name, reason = choose_recipe(config, photos, teacher.head.in_features, cells)
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
    check_disk(home.path, plan)
    lesson.to_learn.cache.limit_bytes = plan.pixel_cache_bytes
    return _Task(
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


def _read_lesson(folder: Path, manifest: Manifest, config: IncrementConfig) -> _Lesson:
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
    return _Lesson(
        new_classes=photo_folder.class_names,
        to_learn=PhotoSet(to_learn, manifest.preprocessing, cache, augmentation_seed=seed),
        held_back=PhotoSet(held_back, manifest.preprocessing, cache),
        skipped=photo_folder.skipped,
    )


def _learn(
    task: _Task, on_progress: ProgressCallback, should_stop: Callable[[], bool]
) -> tuple[TrainingReport | None, ClassStatistics]:
    """Trains the student as the recipe says, and brings the class statistics onto its features."""
    student, teacher, recipe, batch_size = task.student, task.teacher, task.recipe, task.plan.micro_batch_size
    statistics = ClassStatistics.from_arrays(task.parent.arrays(MEANS, COVARIANCE, PHOTOS))
    photos, labels = task.lesson.to_learn, np.array(task.lesson.to_learn.labels)
    N = teacher.classes
    features = pooled_features(teacher, photos, batch_size, on_progress)
    own_head = teacher.head_tensors()
    if recipe.head == "solved":
        solved = statistics.copy()
        solved.learn(features, labels)
        weight, bias = (torch.from_numpy(array) for array in solved.solve_head(student.classes))
        student.set_head(weight, bias)
        teacher.set_head(weight[:N], bias[:N])  # both nets judge by the same head, so only features differ

    training = None
    if recipe.trains:
        resume, task.state = task.state, None  # so that the file it is mapped from goes after its use
        try:
            training = train_increment(
                student,
                teacher,
                photos,
                task.config,
                recipe,
                task.classification,
                task.plan,
                on_progress,
                resume=resume,
                after_step=_keeper(task, should_stop),
            )
        except GateError:  # it diverged; there is nothing to go on from
            task.saved.remove()
            raise
        before, features = features, pooled_features(student, photos, batch_size, on_progress)
        statistics.carry(FeatureMap.fit(before, features), N)
    statistics.learn(features, labels)
    if recipe.head == "solved":
        student.set_head(*(torch.from_numpy(array) for array in statistics.solve_head(student.classes)))
        teacher.set_head(*own_head)
    return training, statistics


def _keeper(task: _Task, should_stop: Callable[[], bool]) -> Callable[[TrainingState], None]:
    """Saves the training once a minute, and when it is to stop."""
    last_save = time.monotonic()

    def keep(state: TrainingState) -> None:
        nonlocal last_save
        stop = should_stop()
        if task.plan.checkpoints and (stop or time.monotonic() - last_save > SECONDS_BETWEEN_SAVES):
            drop_mapped_pages(task.teacher.mapped)
            task.saved.save(task.plan, state)
            last_save = time.monotonic()
        if stop:
            raise StoppedError(
                f"stopped after step {state.step} of training; the model is unchanged: the same command "
                + ("goes on from there, and --fresh starts over" if task.plan.checkpoints else "starts over")
            )

    return keep


def _check_prediction(plan: PlanReport, memory: MemoryReport) -> tuple[str, ...]:
    excess = memory.peak_rss_bytes - plan.predicted_peak_rss_bytes
    if excess <= _UNPREDICTED * plan.predicted_peak_rss_bytes:
        return ()
    return (f"the plan was exceeded by {excess / 2**20:.0f} MiB of memory",)


def _estimate(task: _Task, statistics: ClassStatistics) -> tuple[float, float] | None:
    """Accuracy on the shipped classes before and now, by the class statistics; None where none is left."""
    shipped = task.parent.manifest.shipped_classes
    if not shipped:
        return None
    before = ClassStatistics.from_arrays(task.parent.arrays(MEANS, COVARIANCE, PHOTOS))
    pairs = ((before, task.teacher), (statistics, task.student))
    estimates = []
    for kept, network in pairs:
        weight, bias = (tensor.cpu().double().numpy() for tensor in network.head_tensors())
        estimates.append(kept.estimate_accuracy(weight, bias, shipped))
    return estimates[0], estimates[1]


def _pass_gate(config: IncrementConfig, accuracy: EvaluationReport, drift: DriftReport) -> list[str]:
    """Refuses a student that may not replace its teacher; forced, says why it would have been."""
    figures = (
        ("accuracy on held-back photos", accuracy.accuracy, config.least_new_accuracy, "least", 1),
        ("agreement on base classes", drift.base_agreement, config.least_base_agreement, "least", 1),
        (
            "estimated accuracy on shipped classes",
            drift.estimated_shipped_accuracy and drift.estimated_shipped_accuracy[1],
            config.least_shipped_accuracy,
            "least",
            1,
        ),
        ("attention distance", drift.attention_distance, config.most_attention_distance, "most", -1),
    )
    problems = [
        f"{what} is {value:.3f}, and must be at {bound} {limit:.3f}"
        for what, value, limit, bound, sign in figures
        if limit is not None and value is not None and not sign * value >= sign * limit
    ]
    if problems and not config.force:
        raise GateError(
            "the new model is not good enough, so the old one stays: give more or clearer photos (--fresh), "
            "or --force",
            problems,
        )
    warnings = [f"forced through the gate: {problem}" for problem in problems]
    before, now = drift.estimated_shipped_accuracy or (0.0, 0.0)
    if now < _MUCH_FORGOTTEN * before:
        warnings.append(
            f"the model is estimated to be right on {now:.0%} of the shipped classes' photos, from "
            f"{before:.0%} before; lwm-edge evaluate measures it where such photos are"
        )
    return warnings


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

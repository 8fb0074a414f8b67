"""One increment, from photos to a staged model: the main job, in this process.

`add.add_classes` runs it in a process of its own, and `commit.commit_increment` in another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..errors import GateError, StoppedError
from ..home.home import Generation, Home
from ..home.measurement import MemoryUse
from ..home.reports import MemoryReport
from ..learning.class_statistics import ClassStatistics, FeatureMap, Features
from ..learning.config import IncrementConfig
from ..learning.drift import measure_drift
from ..learning.reports import TrainingReport
from ..learning.running import pooled_features, predict_labels
from ..learning.training import TrainingState, train_increment
from ..memory import drop_library_pages, drop_mapped_pages, freed_memory_kept, out_of_memory_explained
from ..model.bundle import COVARIANCE, MEANS, ONNX_GRAPH, PHOTOS, save_bundle
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.loading import network_arrays
from ..model.onnx_file import PARITY_BATCH_SIZES, parity_probe
from ..records import Progress, ProgressCallback, ignore_progress
from .commit import StagedIncrement
from .gate import pass_gate
from .reports import PlanReport
from .resume import SECONDS_BETWEEN_SAVES
from .task import Task, set_up

_UNPREDICTED = 0.02  # of the predicted peak


def plan_learning(home: Home, folder: Path, config: IncrementConfig) -> PlanReport:
    """What teaching the photos' classes would take here. Call it under the home's lock."""
    with out_of_memory_explained():
        task = set_up(home, folder, config, ignore_progress)
        return task.plan.model_copy(update={"warnings": tuple(task.warnings)})


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
        LwmEdgeError: As `add.add_classes` says.
    """
    started = time.monotonic()
    with out_of_memory_explained(), MemoryUse.measured() as use:
        task = set_up(home, folder, config, on_progress)
        batch_size = task.plan.micro_batch_size
        if config.fresh:
            task.saved.forget()
        with freed_memory_kept(task.plan.keeps_freed_memory):
            training, known, features = _learn(task, on_progress, should_stop)
        drop_library_pages()  # most of them were for training
        on_progress(Progress(phase="evaluate", done=0, total=1))
        to_learn, held_back = task.lesson.to_learn, task.lesson.held_back
        _take_in(task, known, features, to_learn.labels)
        accuracy = _evaluate(task)  # before the photos that it is measured by are learnt too
        features = np.concatenate([features, pooled_features(task.student, held_back, batch_size)])
        statistics = _take_in(task, known, features, to_learn.labels + held_back.labels)
        del features, known  # writing needs the room
        estimates = _estimate(task, statistics)
        drift = measure_drift(task.student, task.teacher, held_back, batch_size, estimates)
        warnings = (*task.warnings, *pass_gate(config, accuracy, drift))

        on_progress(Progress(phase="stage", done=0, total=1))
        examples = held_back.photos[: max(PARITY_BATCH_SIZES)]
        probe = parity_probe(task.student, held_back.load(range(len(examples))))
        staged = _stage(home, task, statistics)
        task.lesson.to_learn.cache.forget()  # what is left of the photos now is counted
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
            "new_classes": task.lesson.new_classes,
            "photos_trained": len(task.lesson.to_learn.photos),
            "photos_held_back": len(held_back.photos),
            "skipped": task.lesson.skipped,
            "plan": task.plan.model_dump(),
            "training": training.model_dump() if training else None,
            "held_back": accuracy.model_dump(),
            "drift": drift.model_dump(),
            "warnings": warnings,
        },
    )


def _evaluate(task: Task) -> EvaluationReport:
    """Judges the student by the photos held back."""
    parent, held_back = task.parent.manifest, task.lesson.held_back
    return evaluate_predictions(
        predict_labels(task.student, held_back, task.plan.micro_batch_size),
        np.array(held_back.labels),
        (*parent.class_names, *task.lesson.new_classes),
        parent.shipped_classes,
    )


def _stage(home: Home, task: Task, statistics: ClassStatistics) -> Generation:
    """Writes the bundle that knows the new classes into a generation that no reader sees yet."""
    parent = task.parent.manifest
    manifest = parent.model_copy(
        update={
            "class_names": (*parent.class_names, *task.lesson.new_classes),
            "recipe": task.name,
            "parent_digest": parent.model_digest,
            "increment_count": parent.increment_count + 1,
        }
    )
    arrays = {**task.parent.arrays(ONNX_GRAPH), **network_arrays(task.student), **statistics.to_arrays()}
    staged = home.stage()
    save_bundle(staged.bundle, arrays, manifest)
    return staged


def _learn(
    task: Task, on_progress: ProgressCallback, should_stop: Callable[[], bool]
) -> tuple[TrainingReport | None, ClassStatistics, Features]:
    """Trains the student as the recipe says.

    Returns:
        What the training was like, the statistics of the teacher's classes on the student's features, and
        those features of the photos to learn from.
    """
    student, teacher, recipe, batch_size = task.student, task.teacher, task.recipe, task.plan.micro_batch_size
    photos, N = task.lesson.to_learn, teacher.classes
    features = pooled_features(teacher, photos, batch_size, on_progress)
    if not recipe.trains:
        return None, _known_statistics(task), features
    own_head = teacher.head_tensors()
    if recipe.head == "solved":
        _take_in(task, _known_statistics(task), features, photos.labels)
        teacher.set_head(*(tensor[:N] for tensor in student.head_tensors()))  # so only features differ
    resume, task.state = task.state, None  # so that the file it is mapped from goes after its use
    try:
        training = train_increment(
            student,
            teacher,
            photos,
            task.config,
            recipe,
            task.classification,
            task.plan.pace,
            on_progress,
            resume=resume,
            after_step=_keeper(task, should_stop),
        )
    except GateError:  # it diverged; there is nothing to go on from
        task.saved.forget()
        raise
    teacher.set_head(*own_head)
    before, features = features, pooled_features(student, photos, batch_size, on_progress)
    drift = FeatureMap.fit(before, features)
    known = _known_statistics(task)  # read again: training needs the room
    known.carry(drift, N)
    return training, known, features


def _known_statistics(task: Task) -> ClassStatistics:
    """Of the classes that the teacher knows, on its own features."""
    return ClassStatistics.from_arrays(task.parent.arrays(MEANS, COVARIANCE, PHOTOS))


def _take_in(task: Task, known: ClassStatistics, features: Features, labels: list[int]) -> ClassStatistics:
    """The statistics with the new classes; a head that is solved, the student gets from them."""
    statistics = known.copy()
    statistics.learn(features, np.array(labels))
    if task.recipe.head == "solved":
        weight, bias = statistics.solve_head(task.student.classes)
        task.student.set_head(torch.from_numpy(weight), torch.from_numpy(bias))
    return statistics


def _keeper(task: Task, should_stop: Callable[[], bool]) -> Callable[[TrainingState], None]:
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


def _estimate(task: Task, statistics: ClassStatistics) -> tuple[float, float] | None:
    """Accuracy on the shipped classes before and now, by the class statistics; None where none is left."""
    shipped = task.parent.manifest.shipped_classes
    if not shipped:
        return None
    pairs = ((_known_statistics(task), task.teacher), (statistics, task.student))
    estimates = []
    for kept, network in pairs:
        weight, bias = (tensor.cpu().double().numpy() for tensor in network.head_tensors())
        estimates.append(kept.estimate_accuracy(weight, bias, shipped))
    return estimates[0], estimates[1]

"""One increment, from photos to a staged model: the main job, in this process.

`add.add_classes` runs it in a process of its own, and `commit.commit_increment` in another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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
from ..learning.running import Observation, observe
from ..learning.training import TrainingState, train_increment
from ..memory import drop_library_pages, drop_mapped_pages, freed_memory_kept, out_of_memory_explained
from ..model.bundle import COVARIANCE, MEANS, ONNX_GRAPH, PHOTOS, save_bundle
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.loading import network_arrays
from ..model.onnx_file import PARITY_BATCH_SIZES
from ..records import Progress, ProgressCallback, ignore_progress
from .commit import StagedIncrement
from .gate import pass_gate
from .reports import LearningReport, PlanReport
from .resume import SECONDS_BETWEEN_SAVES
from .task import Task, set_up

_UNPREDICTED = 0.02  # of the predicted peak


def plan_learning(home: Home, folder: Path, config: IncrementConfig) -> PlanReport:
    """What teaching the photos' classes would take here. Call it under the home's lock."""
    with out_of_memory_explained():
        task = set_up(home, folder, config, ignore_progress)
        return task.plan.model_copy(update={"warnings": task.warnings})


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
        photos, student = task.photos, task.student
        if config.fresh:
            task.saved.forget()
        with freed_memory_kept(task.plan.keeps_freed_memory):
            learnt = _learn(task, on_progress, should_stop)
        drop_library_pages()  # most of them were for training
        on_progress(Progress(phase="evaluate", done=0, total=1))
        seen, by_student = learnt.seen, learnt.held_back
        _update_statistics_and_head(task, learnt.known, seen.head_inputs, photos.to_learn.labels)
        accuracy = _evaluate(task, by_student)  # before the photos that it is measured by are learnt too
        statistics = _update_statistics_and_head(
            task,
            learnt.known,
            np.concatenate([seen.head_inputs, by_student.head_inputs]),
            photos.to_learn.labels + photos.held_back.labels,
        )
        training = learnt.training
        drift = measure_drift(
            student, task.teacher, by_student, learnt.held_back_by_teacher, _estimate(task, statistics)
        )
        warnings = (*task.warnings, *pass_gate(config, accuracy, drift))

        on_progress(Progress(phase="stage", done=0, total=1))
        examples = photos.held_back.load(range(len(photos.held_back.photos))[: max(PARITY_BATCH_SIZES)])
        logits = by_student.logits(student)[: len(examples)].astype(np.float32)
        del learnt, seen, by_student  # writing needs the room
        staged = _stage(home, task, statistics)
        photos.to_learn.cache.forget()  # what is left of the photos now is counted
        memory = use.report(student, examples)
        warnings += _check_prediction(task.plan, memory)
    return StagedIncrement(
        folder=staged.path,
        examples=examples.tobytes(),
        logits=tuple(tuple(row) for row in logits.tolist()),
        seconds=time.monotonic() - started,
        memory=memory,
        sign_with=config.sign_with,
        learning=LearningReport(
            recipe=task.approach.name,
            recipe_reason=task.approach.reason,
            beta=task.approach.recipe.beta,
            gamma=task.approach.recipe.gamma,
            new_classes=photos.new_classes,
            photos_trained=len(photos.to_learn.photos),
            photos_held_back=len(photos.held_back.photos),
            skipped=photos.skipped,
            plan=task.plan,
            training=training,
            held_back=accuracy,
            drift=drift,
            warnings=warnings,
        ),
    )


def _evaluate(task: Task, by_student: Observation) -> EvaluationReport:
    """Judges the student by the photos held back."""
    parent, photos = task.parent.manifest, task.photos
    return evaluate_predictions(
        by_student.logits(task.student).argmax(1),
        np.array(photos.held_back.labels),
        (*parent.class_names, *photos.new_classes),
        parent.shipped_classes,
    )


def _stage(home: Home, task: Task, statistics: ClassStatistics) -> Generation:
    """Writes the bundle that knows the new classes into a generation that no reader sees yet."""
    parent = task.parent.manifest
    manifest = parent.model_copy(
        update={
            "class_names": (*parent.class_names, *task.photos.new_classes),
            "recipe": task.approach.name,
            "parent_digest": parent.model_digest,
            "increment_count": parent.increment_count + 1,
        }
    )
    arrays = {**task.parent.arrays(ONNX_GRAPH), **network_arrays(task.student), **statistics.to_arrays()}
    staged = home.stage()
    save_bundle(staged.bundle, arrays, manifest)
    return staged


class Learnt(NamedTuple):
    """What the learning leaves, each photo having been seen once by each network that is asked about it.

    Attributes:
        training: How the training went; None where the backbone stayed as it is.
        known: Statistics of the teacher's classes, on the student's features.
        seen: What the student made of the photos to learn from.
        held_back: What the student made of the photos held back, with its maps.
        held_back_by_teacher: What the teacher made of those, with its maps.
    """

    training: TrainingReport | None
    known: ClassStatistics
    seen: Observation
    held_back: Observation
    held_back_by_teacher: Observation


def _learn(task: Task, on_progress: ProgressCallback, should_stop: Callable[[], bool]) -> Learnt:
    """Trains the student as the recipe says, and looks at the photos."""
    student, teacher, batch_size = task.student, task.teacher, task.plan.micro_batch_size
    to_learn, held_back = task.photos.to_learn, task.photos.held_back
    by_teacher = observe(teacher, to_learn, batch_size, on_progress)
    if not task.approach.recipe.trains:  # the backbone is one and the same
        by_both = observe(teacher, held_back, batch_size, on_progress, keep_maps=True)
        return Learnt(None, _known_statistics(task), by_teacher, by_both, by_both)
    training = _train(task, by_teacher, on_progress, should_stop)
    by_student = observe(student, to_learn, batch_size, on_progress)
    change = FeatureMap.fit(by_teacher.head_inputs, by_student.head_inputs)
    known = _known_statistics(task)  # read again: training needs the room
    known.carry(change, teacher.classes)
    return Learnt(
        training,
        known,
        by_student,
        observe(student, held_back, batch_size, on_progress, keep_maps=True),
        observe(teacher, held_back, batch_size, on_progress, keep_maps=True),
    )


def _train(
    task: Task, by_teacher: Observation, on_progress: ProgressCallback, should_stop: Callable[[], bool]
) -> TrainingReport:
    """Trains the student, beneath a solved head where the recipe has one."""
    student, teacher, photos = task.student, task.teacher, task.photos.to_learn
    teachers_head = teacher.head_tensors()
    if task.approach.recipe.head == "solved":
        _update_statistics_and_head(task, _known_statistics(task), by_teacher.head_inputs, photos.labels)
        rows = (tensor[: teacher.classes] for tensor in student.head_tensors())
        teacher.set_head(*rows)  # so that only features differ
    try:
        training = train_increment(
            student,
            teacher,
            photos,
            task.config,
            task.approach.recipe,
            task.approach.classification,
            task.plan.pace,
            on_progress,
            resume=task.saved.state,
            after_step=_checkpoint_saver(task, should_stop),
        )
    except GateError:  # it diverged; there is nothing to go on from
        task.saved.forget()
        raise
    teacher.set_head(*teachers_head)
    return training


def _known_statistics(task: Task) -> ClassStatistics:
    """Of the classes that the teacher knows, on its own features."""
    return ClassStatistics.from_arrays(task.parent.arrays(MEANS, COVARIANCE, PHOTOS))


def _update_statistics_and_head(
    task: Task, known: ClassStatistics, features: Features, labels: list[int]
) -> ClassStatistics:
    """The statistics with the new classes; a head that is solved, the student gets from them."""
    statistics = known.copy()
    statistics.learn(features, np.array(labels))
    if task.approach.recipe.head == "solved":
        weight, bias = statistics.solve_head(task.student.classes)
        task.student.set_head(torch.from_numpy(weight), torch.from_numpy(bias))
    return statistics


def _checkpoint_saver(task: Task, should_stop: Callable[[], bool]) -> Callable[[TrainingState], None]:
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

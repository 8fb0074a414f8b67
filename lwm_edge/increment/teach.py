"""Teaches a student: trains it if the recipe says so, and runs both networks on the photos."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ..errors import GateError, StoppedError
from ..learning.class_statistics import ClassStatistics, FeatureMap, Features
from ..learning.reports import TrainingReport
from ..learning.running import Observation, observe
from ..learning.training import TrainingState, train_increment
from ..memory import drop_mapped_pages
from ..model.bundle import COUNTS, COVARIANCE, MEANS, PHOTOS
from ..records import ProgressCallback
from .resume import SECONDS_BETWEEN_SAVES
from .task import Task


class Learnt(NamedTuple):
    """Holds what the learning produced; apart from the training, no network runs on a photo twice.

    Attributes:
        training: Report on the training; None if the backbone stayed as it was.
        teachers_statistics: Statistics of the teacher's classes, in the student's features.
        to_learn: Observation of the photos to learn from, by the student.
        held_back: Observation of the held-back photos by the student, with its maps.
        held_back_by_teacher: Observation of the held-back photos by the teacher, with its maps.
    """

    training: TrainingReport | None
    teachers_statistics: ClassStatistics
    to_learn: Observation
    held_back: Observation
    held_back_by_teacher: Observation


def teach(task: Task, on_progress: ProgressCallback, should_stop: Callable[[], bool]) -> Learnt:
    """Trains the student as the recipe says, and runs both networks on the photos."""
    student, teacher, batch_size = task.student, task.teacher, task.plan.micro_batch_size
    to_learn, held_back = task.photos.to_learn, task.photos.held_back
    by_teacher = observe(teacher, to_learn, batch_size, on_progress)
    if not task.approach.recipe.trains:  # teacher and student share one unchanged backbone
        by_both = observe(teacher, held_back, batch_size, on_progress, keep_maps=True)
        return Learnt(None, teachers_statistics(task), by_teacher, by_both, by_both)
    training = _train(task, by_teacher, on_progress, should_stop)
    by_student = observe(student, to_learn, batch_size, on_progress)
    change = FeatureMap.fit(by_teacher.head_inputs, by_student.head_inputs)
    statistics = teachers_statistics(task)  # read only now, as the training needs the memory
    statistics.follow_drift(change, teacher.classes)
    return Learnt(
        training,
        statistics,
        by_student,
        observe(student, held_back, batch_size, on_progress, keep_maps=True),
        observe(teacher, held_back, batch_size, on_progress, keep_maps=True),
    )


def _train(
    task: Task, by_teacher: Observation, on_progress: ProgressCallback, should_stop: Callable[[], bool]
) -> TrainingReport:
    """Trains the student; if the recipe has a solved head, the backbone trains beneath it."""
    student, teacher, photos = task.student, task.teacher, task.photos.to_learn
    teachers_head = teacher.head_tensors()
    if task.approach.recipe.head == "solved":
        update_statistics_and_head(task, teachers_statistics(task), by_teacher.head_inputs, photos.labels)
        rows = (tensor[: teacher.classes] for tensor in student.head_tensors())
        teacher.set_head(*rows)  # so that teacher and student differ in their features only
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
    except GateError:  # the training diverged, so there is nothing to continue
        task.saved.forget()
        raise
    teacher.set_head(*teachers_head)
    return training


def teachers_statistics(task: Task) -> ClassStatistics:
    """Reads the statistics of the classes that the teacher knows, in its own features."""
    return ClassStatistics.from_arrays(task.parent.arrays(MEANS, COVARIANCE, PHOTOS, COUNTS))


def update_statistics_and_head(
    task: Task, known: ClassStatistics, features: Features, labels: list[int]
) -> ClassStatistics:
    """Adds new classes to a copy of the statistics, and solves the student's head if the recipe says so."""
    statistics = known.with_photos(features, np.array(labels))
    if task.approach.recipe.head == "solved":
        weight, bias = statistics.solve_head(task.student.classes)
        task.student.set_head(torch.from_numpy(weight), torch.from_numpy(bias))
    return statistics


def _checkpoint_saver(task: Task, should_stop: Callable[[], bool]) -> Callable[[TrainingState], None]:
    """Makes a function that saves the training once a minute, and saves and ends it when asked to stop."""
    last_save = time.monotonic()

    def save_or_stop(state: TrainingState) -> None:
        nonlocal last_save
        stop = should_stop()
        if task.plan.checkpoints and (stop or time.monotonic() - last_save > SECONDS_BETWEEN_SAVES):
            drop_mapped_pages(task.teacher.mapped)
            task.saved.save(task.plan, state)
            last_save = time.monotonic()
        if stop:
            saved = task.plan.checkpoints
            raise StoppedError(
                f"stopped after step {state.step} of training; the model is unchanged: the same command "
                + ("continues from there, and --fresh starts over" if saved else "starts over")
            )

    return save_or_stop

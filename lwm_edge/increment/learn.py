"""Learns new classes in this process, from photos to a staged model: the main part of an increment.

`add.add_classes` runs this in one worker process, and `commit.commit_increment` in another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import GateError, StoppedError
from ..home.home import Generation, Home
from ..home.measurement import MemoryUse
from ..home.reports import MemoryReport
from ..learning.class_statistics import (
    FOLDS,
    ClassStatistics,
    FeatureMap,
    Features,
    predict_unseen,
)
from ..learning.config import IncrementConfig
from ..learning.drift import measure_drift
from ..learning.reports import DriftReport, TrainingReport
from ..learning.running import Observation, observe
from ..learning.training import TrainingState, train_increment
from ..memory import drop_library_pages, drop_mapped_pages, freed_memory_kept, out_of_memory_explained
from ..model.bundle import (
    BESIDE_THE_NETWORK,
    COUNTS,
    COVARIANCE,
    MANIFEST,
    MEANS,
    MEASURED,
    PHOTOS,
    PROBE,
    save_bundle,
)
from ..model.cost import network_cost
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.loading import network_arrays
from ..model.network import Network
from ..model.onnx.parity import PARITY_BATCH_SIZES, head_inputs_of_probe
from ..records import Progress, ProgressCallback, step_reporter
from .commit import StagedIncrement
from .gate import pass_gate
from .judgement import (
    hopeless_classes,
    judge_new_classes,
    warn_about_new_classes,
    warn_about_unequal_classes,
)
from .reports import LearningReport, NewClassReport, PlanReport
from .resume import SECONDS_BETWEEN_SAVES
from .shipped import ShippedJudgement, judge_shipped
from .task import Task, set_up

_EVALUATION_STEPS = 4 + FOLDS  # statistics twice, shipped classes, drift, and the new classes' folds
_TOLERATED_EXCESS = 0.02  # share of the predicted peak


def plan_learning(
    home: Home, folder: Path, config: IncrementConfig, on_progress: ProgressCallback
) -> PlanReport:
    """Returns what it would take to learn the photos' classes here; the caller holds the home's lock."""
    with out_of_memory_explained():
        task = set_up(home, folder, config, on_progress)
        return task.plan.model_copy(update={"warnings": task.warnings})


def learn_classes(
    home: Home,
    folder: Path,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    should_stop: Callable[[], bool] = lambda: False,
) -> StagedIncrement:
    """Learns the photos' classes and stages the model that knows them; the caller holds the home's lock.

    Args:
        home: Model home.
        folder: Path of a folder with one sub-folder of photos for each class.
        config: Settings of the increment.
        on_progress: Function that is called at every step.
        should_stop: Function that is called after every step; when it returns True, the training is saved and
            stopped.

    Raises:
        StoppedError: `should_stop` asked for it.
        LwmEdgeError: For the reasons that `add.add_classes` lists.
    """
    started = time.monotonic()
    with out_of_memory_explained(), MemoryUse.measured() as use:
        task = set_up(home, folder, config, on_progress)
        photos, student = task.photos, task.student
        if config.fresh:
            task.saved.forget()
        with freed_memory_kept(task.plan.keeps_freed_memory):
            learnt = _learn(task, on_progress, should_stop)
        drop_library_pages()  # most of them were needed for the training only
        report = step_reporter("evaluate", _EVALUATION_STEPS, on_progress)
        report()
        to_learn, held_back = learnt.to_learn, learnt.held_back
        _update_statistics_and_head(
            task, learnt.teachers_statistics, to_learn.head_inputs, photos.to_learn.labels
        )
        # Both are measured before the held-back photos are learnt too.
        accuracy, judged = _evaluate(task, held_back), _judge(task, learnt, report)
        report()
        statistics = _update_statistics_and_head(
            task,
            learnt.teachers_statistics,
            np.concatenate([to_learn.head_inputs, held_back.head_inputs]),
            photos.to_learn.labels + photos.held_back.labels,
        )
        training = learnt.training
        report()
        shipped = _judge_shipped(task, statistics)
        report()
        drift = measure_drift(student, task.teacher, held_back, learnt.held_back_by_teacher, shipped.estimate)
        warnings = (*task.warnings, *_pass_or_refuse(task, accuracy, judged, drift, shipped, statistics))

        on_progress(Progress(phase="stage", done=0, total=1))
        examples = photos.held_back.load(range(len(photos.held_back.photos))[: max(PARITY_BATCH_SIZES)])
        logits = held_back.logits(student)[: len(examples)].astype(np.float32)
        del learnt, to_learn, held_back  # writing needs the memory
        staged = _stage(home, task, statistics)
        photos.to_learn.cache.forget()  # any photos still in memory after this are counted
        memory, cost = use.report(student, examples), network_cost(student)
        warnings += _prediction_warnings(task.plan, memory)
    return StagedIncrement(
        folder=staged.path,
        examples=examples.tobytes(),
        logits=tuple(tuple(row) for row in logits.tolist()),
        cost=cost,
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
            judged=judged,
            drift=drift,
            warnings=warnings,
        ),
    )


def _evaluate(task: Task, by_student: Observation) -> EvaluationReport:
    """Measures the student's accuracy on the held-back photos."""
    parent, photos = task.parent.manifest, task.photos
    return evaluate_predictions(
        by_student.logits(task.student).argmax(1),
        np.array(photos.held_back.labels),
        _class_names(task),
        parent.shipped_classes,
    )


def _pass_or_refuse(
    task: Task,
    accuracy: EvaluationReport,
    judged: Sequence[NewClassReport],
    drift: DriftReport,
    shipped: ShippedJudgement,
    statistics: ClassStatistics,
) -> list[str]:
    """Refuses a model that does not pass the gate; returns the warnings for the owner of one that does."""
    parent, names = task.parent.manifest, _class_names(task)
    hopeless = [*hopeless_classes(judged, len(names)), *shipped.lost]
    return [
        *pass_gate(task.config, accuracy, drift, hopeless, parent.shipped_classes),
        *shipped.warnings,
        *warn_about_new_classes(judged, parent.class_names),
        *warn_about_unequal_classes(names, statistics.counts),
    ]


def _class_names(task: Task) -> tuple[str, ...]:
    return (*task.parent.manifest.class_names, *task.photos.new_classes)


def _judge(task: Task, learnt: Learnt, report: Callable[[], None]) -> tuple[NewClassReport, ...]:
    """Judges the new classes by photos that the judged head had not learnt.

    Where nothing trains, all of their photos count, each judged by a head that is solved without it.
    """
    photos, student = task.photos, task.student
    labels, seen = np.array(photos.held_back.labels), learnt.held_back
    if task.approach.recipe.trains:
        predictions = seen.logits(student).argmax(1)
    else:
        labels = np.array(photos.to_learn.labels + photos.held_back.labels)
        features = np.concatenate([learnt.to_learn.head_inputs, seen.head_inputs])
        predictions = predict_unseen(
            learnt.teachers_statistics.with_photos, features, labels, student.classes, report
        )
    return judge_new_classes(predictions, labels, _class_names(task), task.teacher.classes)


def _judge_shipped(task: Task, statistics: ClassStatistics) -> ShippedJudgement:
    """Judges what became of the shipped classes."""
    parent, measured = task.parent.manifest, task.parent.arrays(*MEASURED)
    return judge_shipped(
        _teachers_statistics(task),
        statistics,
        _head(task.teacher),
        _head(task.student),
        measured,
        parent.class_names[: parent.shipped_classes],
        solved=task.approach.recipe.head == "solved",
        is_first=parent.increment_count == 0,
    )


def _head(network: Network) -> tuple[Features, Features]:
    weight, bias = (tensor.cpu().double().numpy() for tensor in network.head_tensors())
    return weight, bias


def _stage(home: Home, task: Task, statistics: ClassStatistics) -> Generation:
    """Writes the bundle that knows the new classes to a generation that no reader can see yet."""
    parent = task.parent.manifest
    manifest = parent.model_copy(
        update={
            "class_names": (*parent.class_names, *task.photos.new_classes),
            "recipe": task.approach.name,
            "parent_digest": parent.model_digest,
            "increment_count": parent.increment_count + 1,
        }
    )
    unchanged = BESIDE_THE_NETWORK - {MANIFEST, *statistics.to_arrays()}
    arrays = {
        **task.parent.arrays(*unchanged),
        **network_arrays(task.student),
        **statistics.to_arrays(),
    }
    if task.approach.recipe.trains:
        arrays[PROBE] = head_inputs_of_probe(task.student)
        for name in MEASURED:  # the vendor measured another network
            arrays[name] = np.zeros_like(arrays[name])
    staged = home.stage()
    save_bundle(staged.bundle, arrays, manifest)
    return staged


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


def _learn(task: Task, on_progress: ProgressCallback, should_stop: Callable[[], bool]) -> Learnt:
    """Trains the student as the recipe says, and runs both networks on the photos."""
    student, teacher, batch_size = task.student, task.teacher, task.plan.micro_batch_size
    to_learn, held_back = task.photos.to_learn, task.photos.held_back
    by_teacher = observe(teacher, to_learn, batch_size, on_progress)
    if not task.approach.recipe.trains:  # teacher and student share one unchanged backbone
        by_both = observe(teacher, held_back, batch_size, on_progress, keep_maps=True)
        return Learnt(None, _teachers_statistics(task), by_teacher, by_both, by_both)
    training = _train(task, by_teacher, on_progress, should_stop)
    by_student = observe(student, to_learn, batch_size, on_progress)
    change = FeatureMap.fit(by_teacher.head_inputs, by_student.head_inputs)
    statistics = _teachers_statistics(task)  # read only now, as the training needs the memory
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
        _update_statistics_and_head(task, _teachers_statistics(task), by_teacher.head_inputs, photos.labels)
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


def _teachers_statistics(task: Task) -> ClassStatistics:
    """Reads the statistics of the classes that the teacher knows, in its own features."""
    return ClassStatistics.from_arrays(task.parent.arrays(MEANS, COVARIANCE, PHOTOS, COUNTS))


def _update_statistics_and_head(
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


def _prediction_warnings(plan: PlanReport, memory: MemoryReport) -> tuple[str, ...]:
    excess = memory.peak_rss_bytes - plan.predicted_peak_rss_bytes
    if excess <= _TOLERATED_EXCESS * plan.predicted_peak_rss_bytes:
        return ()
    return (f"the increment took {excess / 2**20:.0f} MiB more memory than planned",)

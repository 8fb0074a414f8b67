"""Learns from photos in this process and makes a model that can be committed: the main part of an increment.

`add.add_classes` and `add.add_photos` run this module and then `commit`, in the caller's process or in worker
processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..freed_memory import give_freed_memory_back
from ..home.home import Generation, Home
from ..home.measurement import MemoryUse
from ..home.reports import MemoryReport
from ..learning.config import IncrementConfig, MorePhotos
from ..learning.discriminant import FOLDS, Head
from ..learning.unknown import score_tensors
from ..memory import out_of_memory_explained
from ..model.bundle import save_bundle
from ..model.judged import Judged, with_judged
from ..model.onnx.parity import PARITY_BATCH_SIZES
from ..model.tensors import BIAS, HISTOGRAM, WEIGHT, Arrays, forget_what_was_measured
from ..model.unknown import Histogram, kept_by_class
from ..photos.photo_set import digest_of
from ..records import ProgressCallback, StepReporter, one_step
from .approach import reason_before_learning
from .comparison import keep_the_better
from .judgement import warn_about_unknown
from .reports import LearningReport, LearntIncrement, NewClassReport, PlanReport, StagedIncrement
from .task import Task, set_up
from .timing import Timer
from .values import Learnt, UnwrittenModel
from .verdict import (
    all_class_names,
    calibration,
    evaluate_student,
    find_drift,
    held_back_mistakes,
    judge_new,
    judge_what_shipped,
    pass_or_refuse,
)

_EVALUATION_STEPS = 3 + FOLDS  # the held-back photos, the folds, the shipped classes, and drift
_TOLERATED_EXCESS = 0.02  # share of the predicted peak
# Staging's share of the time predicted for all work after the last photo; for the progress bar.
_STAGING_SHARE = 0.2


def plan_learning(
    home: Home,
    folder: Path,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    timer: Timer,
    more: MorePhotos | None = None,
) -> PlanReport:
    """Returns the plan for learning from the photos in this process; the caller holds the home's lock."""
    with out_of_memory_explained():
        task = set_up(home, folder, config, timer.watching(on_progress), timer, more)
        labels, names = task.photos.all_labels, all_class_names(task)
        found = {
            "class_photos": {names[label]: labels.count(label) for label in sorted(set(labels))},
            "skipped": task.photos.skipped,
            "warnings": task.warnings,
            "recipe": task.approach.name,
            "recipe_reason": reason_before_learning(task.approach),
        }
        return task.plan.model_copy(update=found)


def learn_classes(
    home: Home,
    folder: Path,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    should_stop: Callable[[], bool] = lambda: False,
    timer: Timer | None = None,
    more: MorePhotos | None = None,
) -> tuple[LearntIncrement, UnwrittenModel | None]:
    """Learns from the photos; the caller holds the home's lock.

    Args:
        home: Model home.
        folder: Path of a folder with one sub-folder of photos for each class.
        config: Settings of the increment.
        on_progress: Function that is called at every step.
        should_stop: Function that is called after every training step, and repeatedly while waiting for the
            next photos; when it returns True, the training is saved, if the plan allows that, and stopped.
        timer: Timer of the increment; None starts one now.
        more: Settings for further photos of known classes; None for photos of new classes.

    Returns:
        The increment and the model, for `commit.commit_increment`. If torch trained the model, it is staged
        in the home, so that another process can commit it, and None is returned in its place.

    Raises:
        StoppedError: `should_stop` returned True.
        LwmEdgeError: For the reasons that `add.add_classes` lists.
    """
    timer = timer or Timer(time.monotonic())
    on_progress = timer.watching(on_progress)
    with out_of_memory_explained(), MemoryUse.measured() as use:
        task = set_up(home, folder, config, on_progress, timer, more)
        if config.fresh:
            task.saved.forget()
        learnt = task.learner.teach(task.photos, task.plan, task.saved, on_progress, should_stop)
        task, learnt, comparison = keep_the_better(task, learnt)
        report, histogram = _judge(task, learnt, on_progress)
        on_progress(one_step("stage", _seconds_of_staging(task)))
        photos, examples = task.photos, max(PARITY_BATCH_SIZES)
        pixels = photos.held_back.load(range(len(photos.held_back.photos))[:examples])
        logits = learnt.head.logits(learnt.held_back[:examples]).astype(np.float32)
        head, tensors = learnt.head, _changed_tensors(task, learnt, histogram)
        del learnt  # writing needs the memory
        model = _new_model(task, head, tensors, report.judged)
        staged = _stage(home, model) if task.plan.trains else None
        photos.to_learn.cache.forget()  # `use.report` counts any photos still in memory
        give_freed_memory_back()
        memory = use.report(
            task.parent.manifest.preprocessing.image_size, pixels, student=task.learner.student
        )
        warnings = (*report.warnings, *_prediction_warnings(task.plan, memory))
    increment = LearntIncrement(
        examples=pixels.tobytes(),
        logits=tuple(tuple(row) for row in logits.tolist()),
        seconds_by_part=timer.parts(),
        memory=memory,
        sign_with=config.sign_with,
        learning=report.model_copy(update={"warnings": warnings, "comparison": comparison}),
    )
    if staged:
        return StagedIncrement(folder=staged.path, **dict(increment)), None
    return increment, model


def _seconds_of_staging(task: Task) -> float:
    """Predicts how many seconds the progress step `stage` takes.

    For a trained model, the time predicted for all work after the last photo is returned as it is; for any
    other, a share of it.
    """
    ending = task.plan.ending_seconds or 0.0  # plans of older versions lack it
    return ending if task.plan.trains else _STAGING_SHARE * ending


def _judge(task: Task, learnt: Learnt, on_progress: ProgressCallback) -> tuple[LearningReport, Histogram]:
    """Judges what was learnt; also returns the calibration of the score for unknown objects.

    Raises:
        GateError: The new model does not pass the gate.
    """
    report = StepReporter("evaluate", _EVALUATION_STEPS, on_progress)
    report()
    accuracy, new = evaluate_student(task, learnt), judge_new(task, learnt, report)
    report()
    shipped = judge_what_shipped(task, learnt, new.classes)
    report()
    drift = find_drift(learnt, shipped)
    approach, photos, histogram = task.approach, task.photos, calibration(task, new)
    report_on_learning = LearningReport(
        recipe=approach.name,
        recipe_reason=approach.reason,
        beta=approach.recipe.beta,
        gamma=approach.recipe.gamma,
        new_classes=photos.new_classes,
        known_classes=photos.known_classes,
        photos_trained=len(photos.to_learn.photos),
        photos_held_back=len(photos.held_back.photos),
        photos_digest=digest_of(p.digest for p in (*photos.to_learn.photos, *photos.held_back.photos)),
        skipped=photos.skipped,
        plan=task.plan,
        training=learnt.training,
        held_back=accuracy,
        judged=new.classes,
        drift=drift,
        warnings=(
            *task.warnings,
            *learnt.warnings,
            *pass_or_refuse(task, accuracy, new.classes, drift, shipped, learnt),
            *warn_about_unknown(kept_by_class(histogram, all_class_names(task)), photos.new_classes),
        ),
        mistakes=held_back_mistakes(task, learnt),
    )
    return report_on_learning, histogram


def _changed_tensors(task: Task, learnt: Learnt, histogram: Histogram) -> Arrays:
    """Returns the tensors of the bundle that may have changed; `_new_model` adds the head."""
    return {
        **learnt.tensors,
        **learnt.statistics.to_arrays(),
        **score_tensors(learnt.statistics, len(learnt.head.weight), learnt.rows),
        HISTOGRAM: histogram,
    }


def _new_model(task: Task, head: Head, tensors: Arrays, judged: Sequence[NewClassReport]) -> UnwrittenModel:
    """Makes the new model from its head and the other changed tensors."""
    parent, names = task.parent.manifest, all_class_names(task)
    figures = (Judged(names.index(c.class_name), c.right, c.photos) for c in judged)
    manifest = parent.model_copy(
        update={
            "class_names": names,
            "judged": with_judged(parent.judged, figures),
            "recipe": task.approach.name,
            "parent_digest": parent.model_digest,
            "increment_count": parent.increment_count + 1,
        }
    )
    arrays = task.parent.arrays()
    if task.photos.known_classes:
        forget_what_was_measured(arrays, sorted(set(task.photos.all_labels)))
    arrays |= tensors
    for name, rows in ((WEIGHT, head.weight), (BIAS, head.bias)):
        arrays[name] = np.zeros_like(arrays[name])
        arrays[name][: len(rows)] = rows
    return UnwrittenModel(task.parent, arrays, manifest)


def _stage(home: Home, model: UnwrittenModel) -> Generation:
    """Writes a model's bundle to a generation that no reader can see yet."""
    staged = home.stage()
    save_bundle(staged.bundle, model.arrays, model.manifest)
    return staged


def _prediction_warnings(plan: PlanReport, memory: MemoryReport) -> tuple[str, ...]:
    excess = memory.peak_rss_bytes - plan.predicted_peak_rss_bytes
    if excess <= _TOLERATED_EXCESS * plan.predicted_peak_rss_bytes:
        return ()
    return (f"the increment took {excess / 2**20:.0f} MiB more memory than planned",)

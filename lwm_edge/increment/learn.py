"""Learns new classes in this process, from photos to a staged model: the main part of an increment.

`add.add_classes` runs this in one worker process, and `commit.commit_increment` in another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..home.home import Generation, Home
from ..home.measurement import MemoryUse
from ..home.reports import MemoryReport
from ..learning.class_statistics import FOLDS, ClassStatistics
from ..learning.config import IncrementConfig
from ..learning.drift import measure_drift
from ..memory import drop_library_pages, freed_memory_kept, out_of_memory_explained
from ..model.bundle import BESIDE_THE_NETWORK, MANIFEST, MEASURED, PROBE, save_bundle
from ..model.cost import network_cost
from ..model.loading import network_arrays
from ..model.onnx.parity import PARITY_BATCH_SIZES, head_inputs_of_probe
from ..records import Progress, ProgressCallback, step_reporter
from .commit import StagedIncrement
from .reports import LearningReport, PlanReport
from .task import Task, set_up
from .teach import teach, update_statistics_and_head
from .verdict import evaluate_student, judge_new, judge_what_shipped, pass_or_refuse

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
            learnt = teach(task, on_progress, should_stop)
        drop_library_pages()  # most of them were needed for the training only
        report = step_reporter("evaluate", _EVALUATION_STEPS, on_progress)
        report()
        to_learn, held_back = learnt.to_learn, learnt.held_back
        update_statistics_and_head(
            task, learnt.teachers_statistics, to_learn.head_inputs, photos.to_learn.labels
        )
        # Both are measured before the held-back photos are learnt too.
        accuracy, judged = evaluate_student(task, held_back), judge_new(task, learnt, report)
        report()
        statistics = update_statistics_and_head(
            task,
            learnt.teachers_statistics,
            np.concatenate([to_learn.head_inputs, held_back.head_inputs]),
            photos.to_learn.labels + photos.held_back.labels,
        )
        training = learnt.training
        report()
        shipped = judge_what_shipped(task, statistics, judged)
        report()
        drift = measure_drift(student, task.teacher, held_back, learnt.held_back_by_teacher, shipped.estimate)
        warnings = (*task.warnings, *pass_or_refuse(task, accuracy, judged, drift, shipped, statistics))

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


def _prediction_warnings(plan: PlanReport, memory: MemoryReport) -> tuple[str, ...]:
    excess = memory.peak_rss_bytes - plan.predicted_peak_rss_bytes
    if excess <= _TOLERATED_EXCESS * plan.predicted_peak_rss_bytes:
        return ()
    return (f"the increment took {excess / 2**20:.0f} MiB more memory than planned",)

"""Learns new classes by training a student: the paper's loop, with torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GateError, StoppedError
from ..freed_memory import drop_library_pages, drop_mapped_pages, freed_memory_kept
from ..learning.attention import attention_map
from ..learning.class_statistics import ClassStatistics
from ..learning.config import IncrementConfig
from ..learning.discriminant import Features, Head
from ..learning.feature_map import FeatureMap
from ..learning.layout import channels_last
from ..learning.losses import attention_distillation_loss
from ..learning.near_copies import count_near_copies
from ..learning.reports import TrainingReport
from ..learning.running import Observation, choose_device, head_of, observe
from ..learning.training import TrainingState, diverged, train_increment
from ..learning.unknown import score_tensors
from ..learning.unseen import Unseen
from ..model.bundle import Bundle
from ..model.loading import load_network, network_arrays
from ..model.network import Network, attention_cells
from ..model.onnx.parity import head_inputs_of_probe
from ..model.precision import has_bfloat16
from ..model.tensors import MEASURED, PROBE
from ..model.unknown import known_scores
from ..records import ProgressCallback
from .coverage import later_confusion, photos_are_unlike
from .instant import has_idle_budget, learn_without_training
from .job import Job
from .rehearsal import describe_job
from .reports import PlanReport
from .resume import SECONDS_BETWEEN_SAVES, SavedTraining
from .student import make_student, refuse_single_cell, training_warnings
from .timing import Timer
from .values import Approach, Learnt, NewPhotos

_CPU = torch.device("cpu")


class TrainingLearner:
    """Trains a student M_t beside its frozen teacher M_{t-1}.

    Only the training and its trial steps run on a GPU. What the networks compute for the statistics, the
    attention distance and the comparison with the ONNX file is computed on the CPU, in float32. On a GPU,
    torch may round the inputs of convolutions to 10 bits (TF32), and the comparison would mistake the
    difference for a fault in the file.

    Args:
        parent: Bundle of the model before the increment.
        approach: Approach of the increment.
        new_classes: Number of new classes.
        config: Settings of the increment.

    Raises:
        ConfigError: The settings do not fit the network or the device.
    """

    def __init__(self, parent: Bundle, approach: Approach, new_classes: int, config: IncrementConfig) -> None:
        self._parent, self._approach, self._config = parent, approach, config
        self._device = choose_device(config.device)
        self._teacher = load_network(parent)
        self._teacher.freeze(config.frozen_blocks)
        cells = attention_cells(self._teacher)
        refuse_single_cell(self._teacher, cells, approach)
        self._student = make_student(self._teacher, approach, new_classes, config)
        slow = config.precision == "bfloat16" and not has_bfloat16(self._device)
        warnings = training_warnings(approach, self._teacher, cells, parent.manifest, slow_precision=slow)
        self._warnings = tuple(warnings)
        if has_idle_budget(config):
            self._warnings += (
                "a recipe chosen by name has no time limit, so time_budget_seconds has no effect",
            )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns warnings for the owner about the limits of training with this model on this device."""
        return self._warnings

    @property
    def student(self) -> Network:
        """Returns the student M_t."""
        return self._student

    def describe_job(
        self, photos: NewPhotos, *, decoding_bytes: int, generation_bytes: int, timer: Timer
    ) -> Job:
        """Describes the increment for planning; its trial step is a training step on grey images."""
        self._move_to(self._device)
        return describe_job(
            self._parent,
            self._student,
            self._teacher,
            self._approach,
            photos,
            self._config,
            decoding_bytes=decoding_bytes,
            generation_bytes=generation_bytes,
            timer=timer,
        )

    def teach(
        self,
        photos: NewPhotos,
        plan: PlanReport,
        saved: SavedTraining,
        on_progress: ProgressCallback,
        should_stop: Callable[[], bool],
    ) -> Learnt:
        """Trains the student, and runs both networks once on each photo.

        If the student is to be compared with a model whose backbone stayed as it was, but the training
        diverges or the photos do not show how training would move known classes, only that other model is
        made.
        """
        teacher, batch_size, compares = self._teacher, plan.micro_batch_size, self._approach.compares
        self._move_to(_CPU)
        with freed_memory_kept(plan.keeps_freed_memory):
            by_teacher = observe(teacher, photos.to_learn, batch_size, on_progress).head_inputs
        unlike = photos_are_unlike(self._parent, self._approach, by_teacher)
        if compares and unlike:
            why = f"{unlike} to show how training would move these classes"
        else:
            try:
                learnt = self._teach_student(photos, plan, saved, by_teacher, on_progress, should_stop)
                return learnt._replace(warnings=(later_confusion(unlike),)) if unlike else learnt
            except GateError:
                if not compares:
                    raise
                why = "the training diverged"
        self._move_to(_CPU)
        held_back = observe(teacher, photos.held_back, batch_size, on_progress).head_inputs
        learnt = learn_without_training(self._parent, photos, by_teacher, held_back)
        return learnt._replace(why_untrained=why)

    def _teach_student(
        self,
        photos: NewPhotos,
        plan: PlanReport,
        saved: SavedTraining,
        by_teacher: Features,
        on_progress: ProgressCallback,
        should_stop: Callable[[], bool],
    ) -> Learnt:
        student, teacher, batch_size = self._student, self._teacher, plan.micro_batch_size
        with freed_memory_kept(plan.keeps_freed_memory):
            training = self._train(photos, plan, saved, by_teacher, on_progress, should_stop)
            to_learn = observe(student, photos.to_learn, batch_size, on_progress).head_inputs
            if not np.isfinite(to_learn).all():  # no loss is computed after the last update
                saved.forget()
                what = "the network's outputs were no longer finite after training"
                raise diverged(what, self._config, self._approach.recipe)
            change = FeatureMap.fit(by_teacher, to_learn)
            known = ClassStatistics.from_bundle(self._parent)  # not earlier, as the training needs the memory
            known.follow_drift(change, teacher.classes)
            held_back, held_back_by_teacher = (
                observe(network, photos.held_back, batch_size, on_progress, keep_maps=True)
                for network in (student, teacher)
            )
        drop_library_pages()  # most of these pages were needed only for training
        head_for_held_back, without_held_back = self._solved(known, to_learn, photos.to_learn.labels)
        unseen = Unseen(
            head_for_held_back.logits(held_back.head_inputs),
            known_scores(
                held_back.head_inputs, score_tensors(without_held_back, student.classes), student.classes
            ),
        )
        features = np.concatenate([to_learn, held_back.head_inputs])
        copies = count_near_copies(features, np.array(photos.all_labels), known)
        head, statistics = self._solved(known, features, photos.all_labels)
        return Learnt(
            training=training,
            statistics=statistics,
            held_back=held_back.head_inputs,
            held_back_by_teacher=held_back_by_teacher.head_inputs,
            teachers_head=head_of(teacher),
            held_back_logits=unseen.logits,
            judge_unseen=lambda report: (unseen, np.array(photos.held_back.labels)),
            rows=None,
            head=head,
            attention_distance=_attention_distance(student, teacher, held_back, held_back_by_teacher),
            tensors=self._changed_tensors(),
            near_copies=copies,
            untrained=self._untrained(photos, by_teacher, held_back_by_teacher.head_inputs),
        )

    def _untrained(self, photos: NewPhotos, to_learn: Features, held_back: Features) -> Learnt | None:
        """Also makes a model with the teacher's backbone, if the student is to be compared with one."""
        if not self._approach.compares:
            return None
        return learn_without_training(self._parent, photos, to_learn, held_back)

    def _train(
        self,
        photos: NewPhotos,
        plan: PlanReport,
        saved: SavedTraining,
        by_teacher: Features,
        on_progress: ProgressCallback,
        should_stop: Callable[[], bool],
    ) -> TrainingReport:
        """Trains the student; if the recipe solves the head, only the backbone is trained."""
        student, teacher, recipe = self._student, self._teacher, self._approach.recipe
        teachers_head = teacher.head_tensors()
        if recipe.head == "solved":
            known = ClassStatistics.from_bundle(self._parent)
            self._solved(known, by_teacher, photos.to_learn.labels)
            del known  # the training needs the memory
            rows = (tensor[: teacher.classes] for tensor in student.head_tensors())
            teacher.set_head(*rows)  # so that teacher and student differ in their features only
        self._move_to(self._device)
        try:
            with channels_last(student, teacher, plan.precision, plan.keeps_freed_memory):
                training = train_increment(
                    student,
                    teacher,
                    photos.to_learn,
                    self._config,
                    recipe,
                    self._approach.classification,
                    plan.pace,
                    on_progress,
                    resume=saved.state,
                    after_step=self._checkpoint_saver(plan, saved, should_stop),
                )
        except GateError:  # the training diverged, so there is nothing to continue
            saved.forget()
            raise
        self._move_to(_CPU)
        teacher.set_head(*teachers_head)
        return training

    def _move_to(self, device: torch.device) -> None:
        for network in (self._student, self._teacher):
            network.to(device)

    def _solved(
        self, known: ClassStatistics, features: Features, labels: list[int]
    ) -> tuple[Head, ClassStatistics]:
        """Adds new classes to a copy of the statistics, and solves the student's head if the recipe says so.

        Returns:
            Head of the student, and the statistics.
        """
        statistics = known.with_photos(features, np.array(labels))
        if self._approach.recipe.head == "solved":
            head = statistics.solve_head(self._student.classes)
            self._student.set_head(*(torch.from_numpy(rows) for rows in head))
        return head_of(self._student), statistics

    def _checkpoint_saver(
        self, plan: PlanReport, saved: SavedTraining, should_stop: Callable[[], bool]
    ) -> Callable[[TrainingState], None]:
        """Makes a function that stops the training on request.

        If the plan allows, it also saves the training, before it stops and once a minute.
        """
        last_save = time.monotonic()

        def save_or_stop(state: TrainingState) -> None:
            """Saves the training if a save is due, and raises StoppedError if the training is to stop."""
            nonlocal last_save
            stop = should_stop()
            if plan.checkpoints and (stop or time.monotonic() - last_save > SECONDS_BETWEEN_SAVES):
                drop_mapped_pages(self._teacher.mapped)
                saved.save(plan, state)
                last_save = time.monotonic()
            if stop:
                raise StoppedError(
                    f"stopped after step {state.step} of training; the model is unchanged: the same command "
                    + ("continues from there, and --fresh starts over" if plan.checkpoints else "starts over")
                )

        return save_or_stop

    def _changed_tensors(self) -> dict[str, NDArray[Any]]:
        """Returns the student's tensors and probe, and zeros that replace the vendor's measurements."""
        measured = self._parent.arrays(*MEASURED)
        return {
            **network_arrays(self._student),
            PROBE: head_inputs_of_probe(self._student),
            **{name: np.zeros_like(array) for name, array in measured.items()},
        }


@torch.no_grad()
def _attention_distance(
    student: Network, teacher: Network, by_student: Observation, by_teacher: Observation
) -> float:
    """Computes the mean attention distance (L_AD) for some photos, from the maps of both networks."""
    logits = by_student.logits(student)[:, : teacher.classes]
    b = torch.from_numpy(logits.argmax(1))
    Q_student, Q_teacher = (
        attention_map(torch.cat(seen.maps), network.attention_weight.detach().cpu(), b)
        for network, seen in ((student, by_student), (teacher, by_teacher))
    )
    return float(attention_distillation_loss(Q_student, Q_teacher))

"""Defines the values that the parts of an increment share: its photos, its approach and its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ..learning.class_statistics import ClassStatistics
from ..learning.config import Recipe, RecipeName
from ..learning.discriminant import Features, Head, Labels
from ..learning.near_copies import NearCopies
from ..learning.reports import TrainingReport
from ..learning.unseen import Unseen
from ..model.bundle import Bundle
from ..model.manifest import Manifest
from ..model.tensors import Arrays
from ..model.terms import Activation
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback
from .job import Job
from .reports import PlanReport
from .resume import SavedTraining
from .timing import Timer


@dataclass(frozen=True)
class NewPhotos:
    """Holds the photos of an increment.

    Attributes:
        new_classes: Names of the new classes, in the order of their class_index.
        known_classes: Names of the known classes that get further photos; if there are any, no class is new.
        to_learn: Photos that are learnt from.
        held_back: Photos that are kept for evaluation.
        skipped: Files that were left out, each with the reason.
    """

    new_classes: tuple[str, ...]
    known_classes: tuple[str, ...]
    to_learn: PhotoSet
    held_back: PhotoSet
    skipped: tuple[str, ...]

    @property
    def all_labels(self) -> list[int]:
        """Returns the class_index of each photo, starting with the photos to learn from."""
        return self.to_learn.labels + self.held_back.labels


class Approach(NamedTuple):
    """Says how an increment learns.

    Attributes:
        name: Name of the recipe.
        reason: Reason for this recipe, in words.
        recipe: Recipe, adjusted to the settings.
        classification: Kind of classification loss (L_C).
        compares: Whether the student is compared with a model whose backbone stayed as it was, so that the
            better one can be kept.
    """

    name: RecipeName
    reason: str
    recipe: Recipe
    classification: Activation
    compares: bool = False


class Learnt(NamedTuple):
    """Holds the results of learning.

    Attributes:
        training: Report on the training; None if the backbone stayed as it was.
        statistics: Statistics of all classes and photos, in the student's features.
        held_back: Values that the student's head reads for the held-back photos [M, d].
        held_back_by_teacher: Values that the teacher's head reads for the held-back photos [M, d].
        teachers_head: Head of the teacher.
        held_back_logits: Logits of the held-back photos, by the student with a head that has not learnt from
            them.
        judge_unseen: Function that judges photos, each with a model that has not learnt from it, and also
            returns their class indices. It judges all photos if nothing is trained, else the held-back ones.
            Its argument is a function that it may call before it computes each of these models.
        rows: Rows of the `Discriminant` of all classes; None if the backbone was trained.
        head: Head of the student.
        attention_distance: Mean L_AD between student and teacher on the held-back photos; None if the
            backbone stayed as it was.
        tensors: Tensors of the bundle that the training may have changed, other than the statistics.
        near_copies: Numbers of near-copies and of different photos of each class, by class_index.
        untrained: All these results for a model whose backbone stayed as it was; None unless the trained
            model is compared with such a model.
        why_untrained: Reason why only the model with the unchanged backbone was made, although a trained one
            was to be compared with it; None if there is no such reason.
        warnings: Warnings for the owner about what was learnt.
    """

    training: TrainingReport | None
    statistics: ClassStatistics
    held_back: Features
    held_back_by_teacher: Features
    teachers_head: Head
    held_back_logits: Features
    judge_unseen: Callable[[Callable[[], None]], tuple[Unseen, Labels]]
    rows: Features | None
    head: Head
    attention_distance: float | None
    tensors: dict[str, NDArray[Any]]
    near_copies: dict[int, NearCopies]
    untrained: Learnt | None = None
    why_untrained: str | None = None
    warnings: tuple[str, ...] = ()


class UnwrittenModel(NamedTuple):
    """Holds a model that is not on the disk yet.

    Attributes:
        parent: Bundle of the model before the increment.
        arrays: Tensors of this model's bundle.
        manifest: Manifest of this model's bundle.
    """

    parent: Bundle
    arrays: Arrays
    manifest: Manifest


class Learner(Protocol):
    """Learns from photos in one of two ways; see `instant` and `trained`."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns warnings for the owner about limits of this way of learning, or settings it ignores."""

    @property
    def student(self) -> object | None:
        """Returns the student's network; None if nothing is trained, as the teacher's then serves both."""

    def describe_job(
        self, photos: NewPhotos, *, decoding_bytes: int, generation_bytes: int, timer: Timer
    ) -> Job:
        """Describes the increment for planning, including a trial step that shows what a step costs.

        Args:
            photos: Photos to learn from and held-back photos.
            decoding_bytes: Memory that reading a photo takes.
            generation_bytes: Total length of the model's files in the home.
            timer: Timer of the increment.
        """

    def teach(
        self,
        photos: NewPhotos,
        plan: PlanReport,
        saved: SavedTraining,
        on_progress: ProgressCallback,
        should_stop: Callable[[], bool],
    ) -> Learnt:
        """Learns from the photos, as planned."""

"""Defines the values that the parts of an increment share: its photos, how it learns, and what it learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ..learning.class_statistics import ClassStatistics, Features, Head
from ..learning.config import Recipe, RecipeName
from ..learning.reports import TrainingReport
from ..model.bundle import Bundle
from ..model.terms import Activation
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback
from .plan import Job
from .reports import PlanReport
from .resume import SavedTraining


@dataclass(frozen=True)
class NewPhotos:
    """Holds the photos of an increment.

    Attributes:
        new_classes: Names of the new classes, in the order of their class_index.
        to_learn: Photos that are learnt from.
        held_back: Photos that are kept for evaluation.
        skipped: Files that were left out, each with the reason.
    """

    new_classes: tuple[str, ...]
    to_learn: PhotoSet
    held_back: PhotoSet
    skipped: tuple[str, ...]

    @property
    def all_labels(self) -> list[int]:
        """Returns the class_index of each photo, those to learn from first."""
        return self.to_learn.labels + self.held_back.labels


@dataclass(frozen=True)
class Approach:
    """Says how an increment learns.

    Attributes:
        name: Name of the recipe.
        reason: Reason for this recipe, in words.
        recipe: Recipe, with the user's own numbers.
        classification: Kind of classification loss (L_C).
    """

    name: RecipeName
    reason: str
    recipe: Recipe
    classification: Activation


class Learnt(NamedTuple):
    """Holds what the learning produced.

    Attributes:
        training: Report on the training; None if the backbone stayed as it was.
        known: Statistics of the teacher's classes, in the student's features.
        statistics: Statistics of all classes and photos, in the student's features.
        to_learn: Values that the student's head reads of the photos to learn from [M, d].
        held_back: The same of the held-back photos.
        held_back_by_teacher: Values that the teacher's head reads of the held-back photos.
        teachers_head: Head of the teacher.
        head_for_held_back: Head of the student that has not learnt the held-back photos.
        head: Head of the student.
        attention_distance: Mean L_AD between the two on the held-back photos; None if no network of torch was
            at hand to make their attention maps.
        tensors: Tensors of the bundle that the training changed, other than head and statistics.
    """

    training: TrainingReport | None
    known: ClassStatistics
    statistics: ClassStatistics
    to_learn: Features
    held_back: Features
    held_back_by_teacher: Features
    teachers_head: Head
    head_for_held_back: Head
    head: Head
    attention_distance: float | None
    tensors: dict[str, NDArray[Any]]

    def known_before(self, parent: Bundle) -> ClassStatistics:
        """Returns the statistics of the teacher's classes, in the teacher's own features."""
        return self.known if self.training is None else ClassStatistics.from_bundle(parent)


class Learner(Protocol):
    """Learns new classes in one of two ways, see `instant` and `trained`."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns warnings for the owner of what this way cannot do well or leaves unused."""

    @property
    def student(self) -> object | None:
        """Returns the student, if there is one beside the teacher."""

    def describe_job(self, photos: NewPhotos, *, decoding_bytes: int, generation_bytes: int) -> Job:
        """Describes the increment for planning, together with a step that can be tried.

        Args:
            photos: Photos to learn from and held-back photos.
            decoding_bytes: Memory that reading a photo takes.
            generation_bytes: Total length of the model's files in the home.
        """

    def teach(
        self,
        photos: NewPhotos,
        plan: PlanReport,
        saved: SavedTraining,
        on_progress: ProgressCallback,
        should_stop: Callable[[], bool],
    ) -> Learnt:
        """Learns the photos as the plan says."""

"""Learns from photos in seconds and without torch: features from ONNX Runtime, the head from statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from ..errors import ConfigError
from ..freed_memory import give_freed_memory_back
from ..learning.class_statistics import ClassStatistics
from ..learning.config import IncrementConfig
from ..learning.discriminant import FOLDS, Features, Head
from ..learning.near_copies import count_near_copies
from ..learning.regrouping import is_solved
from ..learning.running import observe
from ..learning.unseen import judge_unseen
from ..memory import peak_rss_bytes, reset_peak_rss, resident_parts, rss_bytes
from ..model.backbone import Backbone
from ..model.bundle import Bundle
from ..model.tensors import BIAS, WEIGHT
from ..records import ProgressCallback
from .job import Job, Loaded, Strategy
from .reports import PlanReport
from .resume import SavedTraining
from .timing import Timer
from .values import Approach, Learnt, NewPhotos

# These two were chosen, not measured.
_IMAGES_AT_ONCE = 4  # more are hardly faster: all threads work on each layer anyway
_ENDING_FACTOR = 2.0  # exporting, loading and writing the new model take this many times the loading time
_FLOAT64_BYTES = 8
_SMALL_MATRIX = 384  # side of a matrix that is solved to see how fast this machine is


class InstantLearner:
    """Learns without training: the backbone stays as it is, and the head is solved in closed form.

    Args:
        parent: Bundle of the model before the increment.
        approach: Approach of the increment.
        config: Settings of the increment.

    Raises:
        ExportError: The bundle's graph cannot be run, or its results here differ from those obtained
            where the model was trained (ParityError).
    """

    def __init__(self, parent: Bundle, approach: Approach, config: IncrementConfig) -> None:
        self._parent = parent
        self._warnings = tuple(_warnings(approach, config))
        started = time.monotonic()
        self._backbone, self._loaded = _load(parent)
        self._loading_seconds = time.monotonic() - started

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns warnings for the owner about settings that have no effect."""
        return self._warnings

    @property
    def student(self) -> None:
        """Returns None: teacher and student share one backbone."""
        return None

    def describe_job(
        self, photos: NewPhotos, *, decoding_bytes: int, generation_bytes: int, timer: Timer
    ) -> Job:
        """Describes the increment for planning, with two runs of the backbone on grey images as its step."""
        m, backbone = self._parent.manifest, self._backbone
        assert backbone is not None
        size = m.preprocessing.image_size

        def step(images: int, strategy: Strategy) -> None:
            """Runs the backbone twice on some grey images."""
            for _ in range(2):
                backbone.run(np.full((images, size, size, 3), 128, dtype=np.uint8))

        to_learn, held_back = len(photos.to_learn.photos), len(photos.held_back.photos)
        features = self._parent.arrays(WEIGHT)[WEIGHT].shape[1]
        solving = _solving_seconds(features, to_learn + held_back)
        return Job(
            step=step,
            photos=to_learn,
            held_back=held_back,
            photo_bytes=3 * size**2,
            held_bytes=photos.to_learn.cache.held_bytes,
            observed_bytes=2 * _FLOAT64_BYTES * (to_learn + held_back) * features,
            features=features,
            trained_bytes=0,
            activation_bytes=0,
            decoding_bytes=decoding_bytes,
            bundle_bytes=m.bundle_bytes,
            generation_bytes=generation_bytes,
            images_at_once=_IMAGES_AT_ONCE,
            loaded=self._loaded,
            elapsed_seconds=timer.seconds(),
            ending_seconds=_ENDING_FACTOR * self._loading_seconds + solving,
        )

    def teach(
        self,
        photos: NewPhotos,
        plan: PlanReport,
        saved: SavedTraining,
        on_progress: ProgressCallback,
        should_stop: Callable[[], bool],
    ) -> Learnt:
        """Runs the backbone once on each photo, and solves the head with and without the held-back photos."""
        assert self._backbone is not None
        to_learn, held_back = (
            observe(self._backbone, some, plan.micro_batch_size, on_progress).head_inputs
            for some in (photos.to_learn, photos.held_back)
        )
        self._backbone = None  # solving needs the memory
        give_freed_memory_back()
        return learn_without_training(self._parent, photos, to_learn, held_back)


def learn_without_training(
    parent: Bundle, photos: NewPhotos, to_learn: Features, held_back: Features
) -> Learnt:
    """Learns from features of an unchanged backbone: solves the head with and without the held-back photos.

    Args:
        parent: Bundle of the model before the increment.
        photos: Photos of the increment.
        to_learn: Values that the head reads for the photos to learn from [M, d].
        held_back: The same for the held-back photos.
    """
    features, labels = np.concatenate([to_learn, held_back]), np.array(photos.all_labels)
    statistics = ClassStatistics.from_bundle(parent)
    copies = count_near_copies(features, labels, statistics)
    learn = statistics.learn_more if photos.known_classes else statistics.learn
    learn(features, labels)
    classes = len(parent.manifest.class_names) + len(photos.new_classes)
    solved = statistics.discriminant(classes, features, labels)
    return Learnt(
        training=None,
        statistics=statistics,
        held_back=held_back,
        held_back_by_teacher=held_back,
        teachers_head=teachers_head(parent),
        held_back_logits=solved.without(np.arange(len(labels)) >= len(to_learn)).head.logits(held_back),
        judge_unseen=lambda report: (judge_unseen(solved, len(statistics.means), report), labels),
        rows=solved.rows,
        head=solved.head,
        attention_distance=None,
        tensors={},
        near_copies=copies,
    )


def _load(parent: Bundle) -> tuple[Backbone | None, Loaded]:
    """Loads the backbone, and measures the memory it takes; libraries do not count, as they stay loaded."""
    with suppress(ImportError):  # `Backbone` explains this error
        import onnxruntime  # noqa: F401 - freeing the backbone does not free what this import takes
    reset_peak_rss()
    before, mapped_before = rss_bytes(), _mapped_bytes()
    backbone = Backbone(parent)
    libraries = _mapped_bytes() - mapped_before
    held, peak = (taken - before - libraries for taken in (rss_bytes(), peak_rss_bytes()))
    return backbone, Loaded(max(0, held), max(0, peak))


def _mapped_bytes() -> int:
    _, mapped = resident_parts() or (0, 0)
    return mapped


def _solving_seconds(features: int, photos: int) -> float:
    """Estimates the time to solve the head, which grows with the third power of the number of features."""
    small = np.eye(_SMALL_MATRIX)
    np.linalg.solve(small[:8, :8], small[:8, :8])  # loads the library
    started = time.monotonic()
    np.linalg.solve(small, small)
    solving = time.monotonic() - started
    # This solve has as many right-hand sides as unknowns, and takes four times as long as one with a few. The
    # head takes two solves with a few, and one with a right-hand side for each photo. If there are more
    # photos than unknowns, the models without the held-back photos and without each fold take one each.
    # Large matrices were solved 1.5 times as fast (measured at 2048 values).
    solves = 2 + 4 * min(1.0, photos / features) + (1 + FOLDS) * (photos > features)
    return solving * (features / _SMALL_MATRIX) ** 3 * solves / (4 * 1.5)


def teachers_head(parent: Bundle) -> Head:
    """Reads the head of the model before the increment."""
    arrays, classes = parent.arrays(WEIGHT, BIAS), len(parent.manifest.class_names)
    return Head(*(arrays[name][:classes].astype(np.float64) for name in (WEIGHT, BIAS)))


def require_solved_head(parent: Bundle) -> None:
    """Refuses a trained head, because more photos can change only a head computed from the statistics.

    Raises:
        ConfigError: The head was trained.
    """
    if not is_solved(teachers_head(parent).weight, ClassStatistics.from_bundle(parent)):
        raise ConfigError(
            "the last layer was trained, but learning from more photos needs one that is computed from the "
            "statistics; pass --solve-head to replace it, for all classes, with such a layer, or remove the "
            "classes that get more photos and add them again with all their photos"
        )


def has_idle_budget(config: IncrementConfig) -> bool:
    """Returns whether a time budget was set though only `auto` has one, and only if it may train."""
    default = IncrementConfig.model_fields["time_budget_seconds"].default
    return config.time_budget_seconds != default and (config.recipe != "auto" or config.instant)


def _warnings(approach: Approach, config: IncrementConfig) -> list[str]:
    idle = config.changed_training_settings() + (["device"] if config.device == "cuda" else [])
    idle += ["time_budget_seconds"] if has_idle_budget(config) else []
    if idle:
        return [f"recipe {approach.name} trains nothing, so these settings have no effect: {', '.join(idle)}"]
    return []

"""Learns new classes in seconds and without torch: features from ONNX Runtime, the head from statistics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..learning.class_statistics import ClassStatistics, Head
from ..learning.config import IncrementConfig
from ..learning.running import observe
from ..memory import peak_rss_bytes, reset_peak_rss, rss_bytes
from ..model.backbone import Backbone
from ..model.bundle import BIAS, WEIGHT, Bundle
from ..records import ProgressCallback
from .plan import Job, Strategy
from .reports import PlanReport
from .resume import SavedTraining
from .values import Approach, Learnt, NewPhotos

_IMAGES_AT_ONCE = 4  # more are hardly faster: all threads work on each layer anyway
_FLOAT32_BYTES = 4


class InstantLearner:
    """Learns without training: the backbone stays as it is, and the head is solved in closed form.

    Args:
        parent: Bundle of the model before.
        approach: Approach of the increment.
        config: Settings of the increment.

    Raises:
        ExportError: The bundle's graph cannot be run, or computes something else here than where it was
            trained (ParityError).
    """

    def __init__(self, parent: Bundle, approach: Approach, config: IncrementConfig) -> None:
        self._parent = parent
        self._warnings = tuple(_warnings(approach, config))
        before = rss_bytes()
        reset_peak_rss()
        self._backbone: Backbone | None = Backbone(parent)
        self._loading_bytes = max(0, peak_rss_bytes() - before)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns warnings for the owner of settings that have no effect."""
        return self._warnings

    @property
    def student(self) -> None:
        """Returns None: teacher and student share one backbone."""
        return None

    def describe_job(self, photos: NewPhotos, *, decoding_bytes: int, generation_bytes: int) -> Job:
        """Describes the increment for planning, with runs of the backbone on grey pictures as its step."""
        m, backbone = self._parent.manifest, self._backbone
        assert backbone is not None
        size = m.preprocessing.image_size

        def step(images: int, strategy: Strategy) -> None:
            for _ in range(2):
                backbone.run(np.full((images, size, size, 3), 128, dtype=np.uint8))

        to_learn, held_back = len(photos.to_learn.photos), len(photos.held_back.photos)
        features = self._parent.arrays(WEIGHT)[WEIGHT].shape[1]
        return Job(
            step=step,
            photos=to_learn,
            held_back=held_back,
            photo_bytes=3 * size**2,
            held_bytes=photos.to_learn.cache.held_bytes,
            observed_bytes=_FLOAT32_BYTES * (to_learn + held_back) * features,
            features=features,
            trained_bytes=0,
            activation_bytes=0,
            decoding_bytes=decoding_bytes,
            bundle_bytes=m.bundle_bytes,
            generation_bytes=generation_bytes,
            images_at_once=_IMAGES_AT_ONCE,
            loading_bytes=self._loading_bytes,
        )

    def teach(
        self,
        photos: NewPhotos,
        plan: PlanReport,
        saved: SavedTraining,
        on_progress: ProgressCallback,
        should_stop: Callable[[], bool],
    ) -> Learnt:
        """Runs the backbone once on each photo, and solves the head, once without the held-back photos."""
        assert self._backbone is not None
        to_learn, held_back = (
            observe(self._backbone, some, plan.micro_batch_size, on_progress).head_inputs
            for some in (photos.to_learn, photos.held_back)
        )
        known = ClassStatistics.from_bundle(self._parent)
        classes = len(self._parent.manifest.class_names)
        with_new = classes + len(photos.new_classes)
        head_for_held_back = known.with_photos(to_learn, np.array(photos.to_learn.labels)).solve_head(
            with_new
        )
        statistics = known.with_photos(np.concatenate([to_learn, held_back]), np.array(photos.all_labels))
        return Learnt(
            training=None,
            known=known,
            statistics=statistics,
            to_learn=to_learn,
            held_back=held_back,
            held_back_by_teacher=held_back,
            teachers_head=teachers_head(self._parent),
            head_for_held_back=head_for_held_back,
            head=statistics.solve_head(with_new),
            attention_distance=None,
            tensors={},
        )


def teachers_head(parent: Bundle) -> Head:
    """Reads the head of the model before the increment."""
    arrays, classes = parent.arrays(WEIGHT, BIAS), len(parent.manifest.class_names)
    return Head(*(arrays[name][:classes].astype(np.float64) for name in (WEIGHT, BIAS)))


def _warnings(approach: Approach, config: IncrementConfig) -> list[str]:
    idle = config.changed_training_settings() + (["device"] if config.device == "cuda" else [])
    if idle:
        return [f"recipe {approach.name} trains nothing, so these settings have no effect: {', '.join(idle)}"]
    return []

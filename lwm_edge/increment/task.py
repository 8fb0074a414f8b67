"""Sets up an increment: reads the photos, chooses how to learn them, and makes a plan for this device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..custody.keys import read_private_key
from ..errors import ConfigError, ResourceError
from ..freed_memory import drop_library_pages, freed_memory_kept
from ..home.home import Home
from ..home.trust import require_trusted_model
from ..learning.config import IncrementConfig, MorePhotos
from ..memory import peak_rss_bytes, reset_peak_rss, rss_bytes
from ..model.bundle import Bundle
from ..photos.guard import MAX_MEMORY_BYTES
from ..photos.reading import decoding_bytes, forget_decoding_peak, separate_decoding_bytes
from ..records import ProgressCallback, StepReporter
from .approach import choose_approach, instant_approach, make_learner, require_usable, warn_about_drift
from .new_photos import read_photos
from .plan import check_disk, make_plan, memory_limit
from .prediction import USUAL_STEPS
from .reports import PlanReport
from .resume import SavedTraining, interrupted_increment
from .timing import Timer
from .values import Approach, Learner, NewPhotos


@dataclass(frozen=True)
class Task:
    """Holds an increment that is set up and planned.

    Attributes:
        parent: Bundle of the model before the increment.
        photos: Photos to learn from and held-back photos.
        config: Settings of the increment.
        approach: Recipe, and the reason for it.
        learner: Object that learns from the photos.
        plan: Plan of the increment for this device.
        saved: Checkpoint of the training; empty unless it was interrupted.
        warnings: Warnings for the owner.
    """

    parent: Bundle
    photos: NewPhotos
    config: IncrementConfig
    approach: Approach
    learner: Learner
    plan: PlanReport
    saved: SavedTraining
    warnings: tuple[str, ...]


def set_up(
    home: Home,
    folder: Path,
    config: IncrementConfig,
    on_progress: ProgressCallback,
    timer: Timer,
    more: MorePhotos | None = None,
) -> Task:
    """Reads the photos and plans the increment for this device; learns nothing. The caller holds the lock.

    Args:
        home: Model home.
        folder: Path of the folder of photos.
        config: Settings of the increment.
        on_progress: Function that is called at every step.
        timer: Timer of the increment.
        more: Settings for further photos of known classes; None for photos of new classes.

    Raises:
        LwmEdgeError: The bundle, the photos, the settings or this device cannot be used for the increment.
    """
    parent = home.open_bundle()
    require_trusted_model(home, parent.manifest)
    if not more:  # whatever `auto` chooses first, the increment may fall back to lda
        require_usable("lda" if config.recipe == "auto" else config.recipe, config)
    if config.sign_with:
        read_private_key(config.sign_with)  # so that a bad key is refused before the work, not after it
    reset_peak_rss()
    forget_decoding_peak()
    if more and len(parent.manifest.class_names) == 1:
        only = parent.manifest.class_names[0]
        raise ConfigError(
            f"{only} is the model's only class, so every photo is given that class, and more photos "
            "change nothing; add another class first (lwm-edge add-classes), and then these photos"
        )
    if more and not more.solve_head:
        from .instant import require_solved_head

        require_solved_head(parent)
    # Memory that one photo frees is kept for the next, unless the limit is tight: kept memory counts as used.
    with freed_memory_kept(memory_limit(config)[0] - rss_bytes() > 2 * MAX_MEMORY_BYTES):
        photos = read_photos(home.path, folder, parent.manifest, config, on_progress, more)
    reading = max(0, peak_rss_bytes() - rss_bytes())
    decoding, separate = decoding_bytes(reading), separate_decoding_bytes(reading)
    preparation = _Preparation(home, folder, parent, photos, config, timer, on_progress, decoding, separate)
    continues = not more and interrupted_increment(home, config) is not None
    approach = choose_approach(parent, len(photos.to_learn.photos), config, more, continues=continues)
    return _planned_or_instant(preparation, approach, continues=continues)


@dataclass(frozen=True)
class _Preparation:
    """Holds what the plan of an increment needs, whichever approach it follows.

    Attributes:
        home: Model home.
        folder: Path of the folder of photos.
        parent: Bundle of the model before the increment.
        photos: Photos of the increment.
        config: Settings of the increment.
        timer: Timer of the increment.
        on_progress: Function that is called at every step.
        decoding_bytes: Memory that reading a photo takes.
        separate_decoding_bytes: Memory that reading a photo takes in a separate process.
    """

    home: Home
    folder: Path
    parent: Bundle
    photos: NewPhotos
    config: IncrementConfig
    timer: Timer
    on_progress: ProgressCallback
    decoding_bytes: int
    separate_decoding_bytes: int

    def task(self, approach: Approach) -> Task:
        """Plans the increment with an approach.

        Raises:
            LwmEdgeError: The settings, an interrupted increment or this device rule the approach out.
        """
        home, parent, photos, config = self.home, self.parent, self.photos, self.config
        steps = 1 + USUAL_STEPS if approach.recipe.trains else USUAL_STEPS
        report = StepReporter("plan", steps, self.on_progress)
        report()
        learner = make_learner(parent, approach, len(photos.new_classes), config)
        drop_library_pages()  # most of these pages were needed only for importing
        saved = SavedTraining(
            home.training, parent.manifest, self.folder, photos.to_learn, config, approach.recipe
        )
        limit, limit_source = memory_limit(config)
        left_off = None if config.fresh else saved.plan()
        plan = left_off if left_off and _still_fits(left_off, photos, config, limit) else None
        if plan is None:
            job = learner.describe_job(
                photos,
                decoding_bytes=self.decoding_bytes,
                generation_bytes=home.current().bytes(),
                timer=self.timer,
            )
            job = replace(job, separate_decoding_bytes=self.separate_decoding_bytes, before_step=report)
            if left_off:  # training that began in one precision must not continue in another
                job = replace(job, precisions=(left_off.precision,))
            plan = make_plan(job, config, limit, limit_source)
        if not saved.may_save():
            plan = plan.model_copy(update={"checkpoints": False})
        check_disk(home.path, plan)
        photos.to_learn.cache.limit(plan.pixel_cache_bytes)
        warnings = (*learner.warnings, *warn_about_drift(parent, approach, len(photos.to_learn.photos)))
        warnings += home.describe_foreign()
        if left_off and left_off != plan:
            warnings += ("the plan has changed since the interruption, so the result may differ by rounding",)
        return Task(parent, photos, config, approach, learner, plan, saved, warnings)


def _planned_or_instant(preparation: _Preparation, approach: Approach, *, continues: bool) -> Task:
    """Plans an increment; nothing is trained if `auto` cannot train here at all or in its time budget.

    Interrupted training continues, however long that takes.
    """
    must_train = continues or not approach.compares
    try:
        task = preparation.task(approach)
    except ResourceError:
        if must_train:
            raise
        why = "training needs more memory than is allowed"
    except ConfigError as error:
        if must_train:
            raise
        why = f"training is not possible ({error.message})"
    else:
        seconds, budget = task.plan.predicted_seconds, preparation.config.time_budget_seconds
        if must_train or seconds <= budget:
            return task
        why = f"with training, the increment would take about {seconds:.0f} s, and the budget is {budget:g} s"
        del task  # another plan needs the memory
    return preparation.task(instant_approach(approach, f"{why}, so the network stays as it is"))


def _still_fits(plan: PlanReport, photos: NewPhotos, config: IncrementConfig, limit: int) -> bool:
    """Returns whether a stored plan still suits the settings, the limit and the photos that are in memory.

    A plan that keeps all photos has no room for reading one, so all of them must be in memory again.
    """
    held_bytes = photos.to_learn.cache.held_bytes
    if plan.keeps_all_photos and held_bytes != plan.pixel_cache_bytes:
        return False
    same_size = config.micro_batch_size in (None, plan.micro_batch_size)
    return same_size and plan.predicted_peak_rss_bytes <= limit

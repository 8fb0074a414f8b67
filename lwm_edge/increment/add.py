"""Provides `add_classes`, `add_photos` and `plan_increment`, with or without worker processes."""

from __future__ import annotations

import time
from pathlib import Path

from .. import inspection
from ..errors import LwmEdgeError, PhotosError
from ..freed_memory import drop_library_pages
from ..home.home import Home, open_home
from ..learning.config import RECIPES, IncrementConfig, MorePhotos, may_show_drift
from ..model.bundle import Bundle, read_manifest
from ..model.torch_needed import torch_is_installed
from ..photos.listing import list_photos
from ..records import AnyPath, ProgressCallback, absolute, ignore_progress
from .approach import count_features, why_auto_stays_instant
from .reports import IncrementReport, PlanReport
from .resume import interrupted_increment, resumed_settings
from .timing import Timer
from .worker import Job, run


def add_classes(
    home: Home | AnyPath,
    photos: AnyPath,
    config: IncrementConfig | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
    wait: bool = False,
    started: float | None = None,
) -> IncrementReport:
    """Teaches a home's model new classes, from photos of these classes alone.

    Nothing changes for users of the home until the last step, which is a single rename. After an
    interruption (Ctrl-C, a kill or a power cut), the same call continues any training that was saved.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with one sub-folder of photos for each new class, named after the class.
        config: Settings. A setting that is not given takes its default or, if saved training is continued,
            its value in that training.
        on_progress: Function that is called in this thread at every step and before each photo. An exception
            that it raises before the commit ends the increment, and the home's model stays as it was.
        isolate: Whether to learn and commit in worker processes; False does both in this process.
        wait: Whether to wait for another process that is changing the home.
        started: Value of time.monotonic() from which the receipt counts its seconds; None means now.

    Returns:
        The receipt, which is also in the home as receipt.json.

    Raises:
        PhotosError: The photos in the folder cannot be used; every problem is listed.
        BundleError: The home's bundle is damaged, or has no room for the classes (CapacityError).
        HomeError: The home is missing or cannot be written to.
        ConfigError: The settings do not fit the model, or an increment with other settings or photos was
            interrupted.
        GateError: The training diverged, or the new model is not good enough.
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
        ResourceError: Memory or disk space ran out.
        BusyError: Another process is changing the home, and `wait` is not set.
        StoppedError: The worker was asked to stop.
        TrustError: The home's model does not verify against the key that the home trusts, or the signing key
            cannot be used.
    """
    return _learn(
        home, photos, config, None, on_progress=on_progress, isolate=isolate, wait=wait, started=started
    )


def add_photos(
    home: Home | AnyPath,
    photos: AnyPath,
    config: IncrementConfig | None = None,
    *,
    solve_head: bool = False,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
    wait: bool = False,
    started: float | None = None,
) -> IncrementReport:
    """Teaches a home's model more about classes that it knows, as if it had learnt from all photos at once.

    The network stays as it is. The mean and count of each class, the covariance and the head become what they
    would be after learning from the old and new photos together. A class that the vendor shipped gets more
    photos only if the vendor permits `add-photos`.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with one sub-folder of photos for each class, named after the class. A photo
            that the model has already learnt from counts again, because none is kept to compare it with.
        config: Settings; None means the defaults. Settings of the training have no effect.
        solve_head: Whether to replace a trained head with one that is solved from the statistics.
        on_progress: Function that is called in this thread at every step and before each photo. An exception
            that it raises before the commit ends the increment, and the home's model stays as it was.
        isolate: Whether to learn and commit in a worker process; False does both in this process.
        wait: Whether to wait for another process that is changing the home.
        started: Value of time.monotonic() from which the receipt counts its seconds; None means now.

    Returns:
        The receipt, which is also in the home as receipt.json.

    Raises:
        LwmEdgeError: For the reasons that `add_classes` lists; ConfigError also if the head was trained and
            `solve_head` is not set, PhotosError if the model does not know a class or may not be taught
            more about it.
    """
    more = MorePhotos(solve_head)
    return _learn(
        home, photos, config, more, on_progress=on_progress, isolate=isolate, wait=wait, started=started
    )


def may_train(home: Home, photos: Path, config: IncrementConfig) -> bool:
    """Returns whether an increment with these photos and settings may train, which needs torch."""
    config = resumed_settings(home, config)
    if config.recipe != "auto":
        return RECIPES[config.recipe].trains
    if interrupted_increment(home, config):
        return True
    path = home.current().bundle
    bundle = Bundle(path, read_manifest(path))
    if config.instant or not torch_is_installed() or why_auto_stays_instant(bundle, config):
        return False
    try:
        classes = list_photos(photos, config.class_name).classes
    except PhotosError:
        return False  # the increment itself says what is wrong
    return may_show_drift(sum(len(of_class.files) for of_class in classes), count_features(bundle))


def _learn(
    home: Home | AnyPath,
    photos: AnyPath,
    config: IncrementConfig | None,
    more: MorePhotos | None,
    *,
    on_progress: ProgressCallback,
    isolate: bool,
    wait: bool,
    started: float | None,
) -> IncrementReport:
    """Learns new classes or, with `more`, more about known ones."""
    started = time.monotonic() if started is None else started
    home, photos = open_home(home), Path(photos)
    config = config or IncrementConfig()
    asked = time.monotonic()
    with home.lock(wait=wait, on_progress=on_progress) as lock:
        started += time.monotonic() - asked  # waiting uses up no time budget, and shows in no estimate
        if not more:
            config = resumed_settings(home, config)
        if not isolate:
            from .commit import commit_increment, committing
            from .learn import learn_classes

            timer = Timer(started)
            learnt, model = learn_classes(home, photos, config, on_progress, timer=timer, more=more)
            drop_library_pages()  # most of these pages were needed only for learning
            on_progress(committing(learnt))
            return commit_increment(home, learnt, timer, model)
        before = home.current()
        job = Job(home=home.path, photos=absolute(photos), config=config, started=started, more=more)
        try:
            done = run(job, lock, on_progress)
            mistakes = done.mistakes
            if done.staged:
                job = Job(home=home.path, staged=done.staged, started=started)
                done = run(job, lock, on_progress)
        except (LwmEdgeError, KeyboardInterrupt):
            if home.current() == before:
                raise
            return _receipt_of_the_last_commit(home)
    assert done.report is not None
    return done.report.model_copy(update={"mistakes": mistakes})


def plan_increment(
    home: Home | AnyPath,
    photos: AnyPath,
    config: IncrementConfig | None = None,
    *,
    more_photos: bool = False,
    solve_head: bool = False,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
    wait: bool = False,
    started: float | None = None,
) -> PlanReport:
    """Returns the memory, time and disk space that `add_classes` would take; the model stays as it is.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with one sub-folder of photos for each class.
        config: Settings, as for the call that is planned.
        more_photos: Whether to plan for `add_photos` instead.
        solve_head: Value for the same argument of `add_photos`.
        on_progress: Function that is called before each photo is read and before each trial step; any
            exception that it raises ends the call.
        isolate: Whether to plan in a worker process; give the value that the planned call will get.
        wait: Whether to wait for another process that is changing the home.
        started: Value of time.monotonic() from which time is counted; None means now.

    Raises:
        LwmEdgeError: For the reasons that `add_classes` lists; ResourceError if the memory limit is too low.
    """
    started = time.monotonic() if started is None else started
    home, photos, config = open_home(home), Path(photos), config or IncrementConfig()
    more = MorePhotos(solve_head) if more_photos else None
    asked = time.monotonic()
    with home.lock(wait=wait, on_progress=on_progress) as lock:
        started += time.monotonic() - asked  # waiting uses up no time budget, and shows in no estimate
        if not more:
            config = resumed_settings(home, config)
        if not isolate:
            from .learn import plan_learning

            return plan_learning(home, photos, config, on_progress, Timer(started), more)
        job = Job(
            home=home.path, photos=absolute(photos), config=config, started=started, more=more, dry_run=True
        )
        planned = run(job, lock, on_progress).plan
    assert planned is not None
    return planned


def _receipt_of_the_last_commit(home: Home) -> IncrementReport:
    """Reads the receipt of an increment whose worker ended after the commit, but before reporting back."""
    report = IncrementReport.model_validate_json(inspection.read_regular(home.current().receipt))
    note = (
        "the process that committed this increment ended before it could report back; this is the receipt "
        "that it left"
    )
    return report.model_copy(update={"warnings": (*report.warnings, note)})

"""Runs an increment in worker processes, or says what it would take: `add_classes`, `plan_increment`."""

from __future__ import annotations

from pathlib import Path

from .. import storage
from ..errors import LwmEdgeError
from ..home.home import Home, open_home
from ..learning.config import IncrementConfig
from ..records import AnyPath, Progress, ProgressCallback, absolute, ignore_progress
from .commit import commit_increment
from .reports import IncrementReport, PlanReport
from .worker import Job, run


def add_classes(
    home: Home | AnyPath,
    photos: AnyPath,
    config: IncrementConfig | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
    wait: bool = False,
) -> IncrementReport:
    """Teaches a home's model new classes from photos of them alone.

    Nothing that a reader of the home sees changes until the last step, which is a single rename. After an
    interruption (Ctrl-C, a kill or a power cut), the same call continues where it stopped and produces the
    same model.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with one sub-folder of photos for each new class, named after the class.
        config: Settings; None means the defaults.
        on_progress: Function that is called in this thread at every step and before each photo. If it raises
            before the commit, the increment ends, and the home's model stays as it was.
        isolate: Whether to learn and commit in worker processes; False does both in this one.
        wait: Whether to wait for another process that is changing the home.

    Returns:
        The receipt, which is also in the home as receipt.json.

    Raises:
        PhotosError: The folder cannot be learnt from; every problem is listed.
        BundleError: The home's bundle is damaged, or has no room for the classes (CapacityError).
        HomeError: The home is missing or cannot be written.
        ConfigError: The settings do not fit the model, or another increment was interrupted.
        GateError: The training diverged, or the new model is not good enough.
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
        ResourceError: Memory or disk space ran out.
        BusyError: Another process is changing the home, and `wait` is not set.
        StoppedError: The worker was asked to stop.
        TrustError: The home's model does not verify against the key that the home trusts, or the key to sign
            with cannot be used.
    """
    home, photos = open_home(home), Path(photos)
    config = config or IncrementConfig()
    with home.lock(wait=wait) as lock:
        if not isolate:
            from .learn import learn_classes

            staged = learn_classes(home, photos, config, on_progress)
            on_progress(Progress(phase="commit", done=0, total=1))
            return commit_increment(home, staged)
        before = home.current()
        job = Job(home=home.path, photos=absolute(photos), config=config)
        learnt = run(job, lock, on_progress)
        assert learnt.staged is not None
        on_progress(Progress(phase="commit", done=0, total=1))
        try:
            committed = run(Job(home=home.path, staged=learnt.staged), lock, on_progress)
        except (LwmEdgeError, KeyboardInterrupt):
            if home.current() == before:
                raise
            return _receipt_of_the_last_commit(home)
    assert committed.report is not None
    return committed.report


def plan_increment(
    home: Home | AnyPath,
    photos: AnyPath,
    config: IncrementConfig | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
    wait: bool = False,
) -> PlanReport:
    """Returns the memory, time and disk space that `add_classes` would take; trains and changes nothing.

    Args:
        home: Model home, or the path of its folder.
        photos: Path of a folder with one sub-folder of photos for each new class.
        config: Settings; None means the defaults.
        on_progress: Function that is called before each photo is read; what it raises ends the call.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        LwmEdgeError: For the reasons that `add_classes` lists; ResourceError if the memory limit is too low.
    """
    home, config = open_home(home), config or IncrementConfig()
    with home.lock(wait=wait) as lock:
        job = Job(home=home.path, photos=absolute(photos), config=config, dry_run=True)
        planned = run(job, lock, on_progress).plan
    assert planned is not None
    return planned


def _receipt_of_the_last_commit(home: Home) -> IncrementReport:
    """Reads the report of an increment whose worker committed it but ended before it could report it."""
    report = IncrementReport.model_validate_json(storage.read_regular(home.current().receipt))
    note = (
        "the process that committed this increment ended before it could report back; this is the receipt "
        "that it left"
    )
    return report.model_copy(update={"warnings": (*report.warnings, note)})

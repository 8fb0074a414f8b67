"""`add_classes` and `plan_increment`: an increment in processes of its own, or what it would take."""

from __future__ import annotations

from pathlib import Path

from ..errors import LwmEdgeError
from ..home.home import Home, open_home
from ..learning.config import IncrementConfig
from ..records import AnyPath, Progress, ProgressCallback, ignore_progress
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

    Until the last step, one rename, nothing that a reader of the home sees is changed. Interrupted (by
    Ctrl-C, a kill or a power cut), the same call goes on where it was, and ends in the same model.

    Args:
        home: The model home, or its folder.
        photos: Folder with one sub-folder of photos for each new class, named as the class.
        config: Settings; the defaults if None.
        on_progress: Called in this thread at every step.
        isolate: Run in processes of their own; False runs in this one.
        wait: For another process that changes the home to finish.

    Returns:
        The receipt, also in the home as receipt.json.

    Raises:
        PhotosError: The folder cannot be learnt from; lists every problem.
        BundleError: The home's bundle is damaged, or has no room (CapacityError).
        HomeError: The home is missing or cannot be written.
        ConfigError: The settings do not fit the model, or another increment was interrupted.
        GateError: The training diverged, or the new model is not good enough.
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
        ResourceError: Out of memory or disk.
        BusyError: Another process changes the home, and `wait` is not set.
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
        job = Job(home=home.path, photos=photos.absolute(), config=config)
        learnt = run(job, lock, on_progress)
        assert learnt.staged is not None
        on_progress(Progress(phase="commit", done=0, total=1))
        try:
            committed = run(Job(home=home.path, staged=learnt.staged), lock, on_progress)
        except (LwmEdgeError, KeyboardInterrupt) as error:
            if home.current() == before or _said_by_the_worker(error):
                raise  # the model is unchanged, or the disk did not confirm the change, which the error says
            return _receipt_left_in(home)
    assert committed.report is not None
    return committed.report


def plan_increment(
    home: Home | AnyPath, photos: AnyPath, config: IncrementConfig | None = None, *, wait: bool = False
) -> PlanReport:
    """What `add_classes` would take here: memory, time and disk. Nothing is trained or changed.

    Raises:
        LwmEdgeError: As `add_classes`; ResourceError where the memory limit is too small.
    """
    home, config = open_home(home), config or IncrementConfig()
    with home.lock(wait=wait) as lock:
        job = Job(home=home.path, photos=Path(photos).absolute(), config=config, dry_run=True)
        planned = run(job, lock, ignore_progress).plan
    assert planned is not None
    return planned


def _said_by_the_worker(error: BaseException) -> bool:
    return isinstance(error, LwmEdgeError) and bool(error.worker_traceback)


def _receipt_left_in(home: Home) -> IncrementReport:
    """The report of an increment whose process committed it, and ended before it could say so."""
    report = IncrementReport.model_validate_json(home.current().receipt.read_bytes())
    note = "the process that committed this ended before it could report it; this is the receipt that it left"
    return report.model_copy(update={"warnings": (*report.warnings, note)})

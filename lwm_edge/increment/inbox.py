"""Provides `teach_inbox` and `watch_inbox`, which teach the model from photos that arrive in an inbox.

Photos arrive in class folders. When nothing in a class folder has changed for a while, its photos are moved
out, and the model learns from them: a new class or, if it knows the class, more about it.
`inbox_watcher` decides when, `inbox_teaching` does the teaching, and `inbox_folder` moves the photos.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..home.home import Home, open_home
from ..learning.config import IncrementConfig
from ..model.terms import QUIET_SECONDS
from ..records import AnyPath, Progress, ProgressCallback, absolute, ignore_progress
from .inbox_folder import InboxFolder
from .inbox_reports import InboxReport
from .inbox_teaching import Teaching
from .inbox_watcher import Watcher

_LONGEST_QUIET_TIME = 366 * 24 * 3600  # in seconds
_LOOKS_PER_QUIET_TIME = 4  # number of times that the inbox is looked at during `quiet_seconds`
_SECONDS_BETWEEN_REPORTS = 0.5


def teach_inbox(
    home: Home | AnyPath,
    inbox: AnyPath,
    config: IncrementConfig | None = None,
    *,
    taught: AnyPath | None = None,
    delete: bool = False,
    quiet_seconds: float = QUIET_SECONDS,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
) -> InboxReport:
    """Teaches a home's model once from the photos in an inbox; trains nothing, so it needs no torch.

    Each class is taught in a change of its own. If the model already knows a class, it learns from these
    photos as with `add_photos`. Photos that cannot be used stay in their folder. The reason is in the report
    and, unless it is only that there are too few photos so far, also in a file beside the folder.

    Args:
        home: Model home, or the path of its folder.
        inbox: Path of a folder in which photos arrive in sub-folders, one for each class.
        config: Settings; None means the defaults. The recipe must be `auto` or `lda`; both mean `lda` here.
            There may be no `class_name`, as each class is named after its folder.
        taught: Folder to which photos are moved after teaching, in a sub-folder for each class.
        delete: Whether to delete photos after teaching, instead of moving them.
        quiet_seconds: Seconds for which a class folder must stay unchanged before its photos are used. If
            there are photos, this call waits that long to see whether anything changes.
        on_progress: Function that is called at every step, and twice a second while the call waits for photos
            to stay unchanged. Any exception that it raises ends the call, and the photos in use are put back
            or, if the model has learnt from them, moved or deleted.
        isolate: Whether to learn in worker processes; False learns in this process.

    Raises:
        ConfigError: The settings cannot be used for an inbox, one of the folders is inside another, or
            teaching another home's model from this inbox was interrupted.
        HomeError: The home or the inbox is missing, or cannot be written to.
        BusyError: Another process is working on this inbox. If only the home is busy, this call waits for it.
        LwmEdgeError: For the reasons that `add_classes` lists, if the home is the cause and not the photos.
    """
    watcher = _watcher(home, inbox, config, taught, delete, quiet_seconds, on_progress, isolate)
    with watcher.folder.locked():
        notes = watcher.teaching.recover()
        watcher.look()
        if watcher.seen:
            _wait(quiet_seconds, on_progress)
        return watcher.teach(notes)


def watch_inbox(
    home: Home | AnyPath,
    inbox: AnyPath,
    config: IncrementConfig | None = None,
    *,
    on_report: Callable[[InboxReport], None],
    taught: AnyPath | None = None,
    delete: bool = False,
    quiet_seconds: float = QUIET_SECONDS,
    on_progress: ProgressCallback = ignore_progress,
    isolate: bool = True,
) -> None:
    """Teaches a home's model from photos that arrive in an inbox, until an interruption or other exception.

    Args:
        home: As for `teach_inbox`.
        inbox: As for `teach_inbox`.
        config: As for `teach_inbox`.
        on_report: Function that is called after the first look, after teaching, and when the waiting
            photos, or the reasons why they wait, have changed.
        taught: As for `teach_inbox`.
        delete: As for `teach_inbox`.
        quiet_seconds: As for `teach_inbox`.
        on_progress: As for `teach_inbox`.
        isolate: As for `teach_inbox`.

    Raises:
        LwmEdgeError: For the reasons that `teach_inbox` lists.
    """
    watcher = _watcher(home, inbox, config, taught, delete, quiet_seconds, on_progress, isolate)
    latest = None
    with watcher.folder.locked():
        notes = watcher.teaching.recover()
        while True:
            report = watcher.teach(notes)
            if report.taught or report != latest:
                on_report(report)
            lasting = report.notes[len(notes) :]
            latest, notes = report.model_copy(update={"taught": (), "notes": lasting}), ()
            _wait(max(quiet_seconds / _LOOKS_PER_QUIET_TIME, 0.1), on_progress)


def _wait(seconds: float, on_progress: ProgressCallback) -> None:
    """Waits, and reports so twice a second, so that whoever receives the reports can end the call."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        on_progress(Progress(phase="wait", done=int(seconds - left), total=math.ceil(seconds)))
        time.sleep(min(left, _SECONDS_BETWEEN_REPORTS))


def _watcher(
    home: Home | AnyPath,
    inbox: AnyPath,
    config: IncrementConfig | None,
    taught: AnyPath | None,
    delete: bool,
    quiet_seconds: float,
    on_progress: ProgressCallback,
    isolate: bool,
) -> Watcher:
    """Makes a watcher from the arguments, after checking them.

    Raises:
        ConfigError: Some arguments cannot be used, or do not fit together.
    """
    opened, path = open_home(home), absolute(inbox)
    config = config or IncrementConfig()
    folder = InboxFolder(path, None if taught is None else absolute(taught))
    if config.recipe not in ("auto", "lda"):
        raise ConfigError(
            f"an inbox teaches without training, so recipe {config.recipe} cannot be used; "
            "leave out the recipe or, to train, use lwm-edge add-classes"
        )
    if config.class_name is not None:
        raise ConfigError(
            "an inbox names each class after its folder, so class_name cannot be used; leave it out, in "
            "lwm-edge.toml too"
        )
    if (taught is None) == (not delete):
        raise ConfigError(
            "say what to do with photos that the model has learnt from: pass --taught with a folder, or "
            "--delete"
        )
    if not 0 <= quiet_seconds <= _LONGEST_QUIET_TIME:
        raise ConfigError(
            f"photos cannot stay unchanged for {quiet_seconds} s; give a number of seconds, such as 60"
        )
    places = {"the home": opened.path, "the inbox": path}
    if folder.taught:
        places["the folder for used photos"] = folder.taught
    _require_apart(places)
    ours = config.model_copy(update={"recipe": "lda"})
    return Watcher(Teaching(opened, folder, ours, on_progress, isolate), quiet_seconds)


def _require_apart(places: dict[str, Path]) -> None:
    """Refuses folders if one is inside another, because every folder in an inbox counts as a class.

    Raises:
        ConfigError: One folder is inside another.
    """
    resolved = {name: path.resolve() for name, path in places.items()}
    for name, path in resolved.items():
        for other, inside in resolved.items():
            if name != other and inside.is_relative_to(path):
                raise ConfigError(f"{other} ({inside}) is inside {name} ({path}); choose separate folders")

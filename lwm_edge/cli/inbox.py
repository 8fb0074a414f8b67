"""Defines `inbox`, which teaches the model from photos as they arrive in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._processes import lower_priority
from ..model.terms import QUIET_SECONDS
from ..records import ProgressCallback, printable
from ..wording import counted
from . import terminal
from .answer import open_chosen_home, show, with_progress
from .display import notes
from .options import HomeOption, JsonOption, MaxMemoryOption, MinPhotosOption, SignWithOption
from .progress import plain_lines
from .settings import increment_config, read_file_config

if TYPE_CHECKING:
    from .. import InboxReport


def inbox_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder in which photos arrive, in one sub-folder per class."),
    ],
    home: HomeOption = None,
    taught: Annotated[
        Path | None,
        typer.Option(
            "--taught",
            metavar="DIR",
            help="Folder to which photos are moved once the model has learnt from them.",
        ),
    ] = None,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete", help="Delete photos once the model has learnt from them, instead of moving them."
        ),
    ] = False,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Learn from the photos that are there, then end; without --once, keep watching."
        ),
    ] = False,
    quiet_for: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Learn a class when nothing in its folder has changed for this long."
        ),
    ] = QUIET_SECONDS,
    max_memory: MaxMemoryOption = None,
    min_photos: MinPhotosOption = None,
    sign_with: SignWithOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn from the photos that arrive in a folder, one class at a time, at low priority.

    Pass --taught DIR or --delete to say what to do with photos that the model has learnt from. Others stay in
    their folder. CLASS.waits.json next to that folder says why, unless the only reason is that there are too
    few photos.
    """
    from .. import teach_inbox, watch_inbox

    chosen = increment_config(
        read_file_config(), max_memory=max_memory, min_photos=min_photos, sign_with=sign_with
    )
    opened = open_chosen_home(home)
    lower_priority()
    how: dict[str, Any] = {"taught": taught, "delete": delete, "quiet_seconds": quiet_for}
    if once:
        report = with_progress(lambda on: teach_inbox(opened, folder, chosen, on_progress=on, **how))
        show(report, as_json, _print, is_done=True)
    else:
        tell = _teller(folder, as_json)
        watch_inbox(opened, folder, chosen, on_report=tell, on_progress=_lines_about_work(), **how)


def _teller(folder: Path, as_json: bool) -> Callable[[InboxReport], None]:
    """Makes a function that shows a report; the first report means that the settings were accepted."""
    is_watched = False

    def tell(report: InboxReport) -> None:
        """Shows a report."""
        nonlocal is_watched
        if not is_watched:
            terminal.note(f"Watching {printable(folder)}; press Ctrl-C to end")
        is_watched = True
        show(report, as_json, _print, is_done=True)

    return tell


def _lines_about_work() -> ProgressCallback:
    """Makes a function that prints lines of progress, but none while nothing is to be done.

    A bar would get in the way of the reports.
    """
    show = plain_lines()
    return lambda progress: None if progress.phase == "wait" else show(progress)


def _print(report: InboxReport) -> None:
    """Prints which photos of an inbox the model learnt from, and why others wait."""
    notes(*report.notes)
    for done in report.taught:
        kind = "new class" if done.change == "add-classes" else "more photos"
        place = f"in {printable(done.moved_to)}" if done.moved_to else "deleted"
        terminal.print_rows(
            f"Learnt {done.class_name} ({kind})",
            {
                "Photos": f"{done.photos}, now {place}",
                "Recognised": f"{done.right} of {done.judged}",
                "Model digest": done.model_digest,
            },
        )
        notes(*done.warnings)
    for left in report.waiting:
        photos = counted(left.photos, "photo", "photos")
        terminal.print_rows(f"{left.class_name}: {left.state}, {photos}", {"Reason": left.reason})
    if not report.taught and not report.waiting and not report.notes:
        terminal.out().print("The inbox is empty")

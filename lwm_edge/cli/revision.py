"""Defines the commands with which owners change their minds about what the model knows."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .. import IncrementConfig
from . import display, display_changes, receipt
from .answer import open_chosen_home, show, with_progress
from .completion import complete_class
from .options import (
    DetailsOption,
    HomeOption,
    JsonOption,
    NameOption,
    PhotosArgument,
    SignWithOption,
    WaitOption,
    setting,
)
from .settings import increment_config, read_file_config
from .started import STARTED


def add_photos_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    class_name: NameOption = None,
    solve_head: Annotated[
        bool,
        typer.Option("--solve-head", help="If the last layer was trained, replace it with a solved one."),
    ] = False,
    max_memory: Annotated[str | None, setting(IncrementConfig, "max_memory", metavar="SIZE")] = None,
    min_photos: Annotated[int | None, setting(IncrementConfig, "min_photos")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be learnt, and what that takes; change nothing."),
    ] = False,
    fresh: Annotated[bool, setting(IncrementConfig, "fresh")] = False,
    force: Annotated[bool, setting(IncrementConfig, "force")] = False,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach the model further photos of classes that it knows; a photo that was given before counts twice."""
    from .. import add_photos, plan_increment
    from ..freed_memory import bound_allocator

    chosen = increment_config(
        read_file_config(),
        class_name=class_name,
        max_memory=max_memory,
        min_photos=min_photos,
        fresh=fresh or None,
        force=force or None,
        sign_with=sign_with,
    )
    opened = open_chosen_home(home)
    bound_allocator()
    if dry_run:
        plan = with_progress(
            lambda on: plan_increment(
                opened,
                photos,
                chosen,
                more_photos=True,
                solve_head=solve_head,
                on_progress=on,
                isolate=False,
                wait=wait,
                started=STARTED,
            )
        )
        show(plan, as_json, display.plan)
        return
    report = with_progress(
        lambda on: add_photos(
            opened,
            photos,
            chosen,
            solve_head=solve_head,
            on_progress=on,
            isolate=False,
            wait=wait,
            started=STARTED,
        )
    )
    show(report, as_json, partial(receipt.more_photos, details=details), is_done=True)


def remove_class_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the class.", autocompletion=complete_class)
    ],
    home: HomeOption = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Also allow a class that the vendor shipped.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Leave the model as if it had never learnt the class, or refuse.")
    ] = False,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a class that was added by mistake; no photos needed."""
    from .. import remove_class

    chosen = increment_config(read_file_config(), sign_with=sign_with)
    opened = open_chosen_home(home)
    report = with_progress(
        lambda on: remove_class(
            opened,
            name,
            shipped=shipped,
            exact=exact,
            sign_with=chosen.sign_with,
            on_progress=on,
            wait=wait,
        ),
        brief=True,
    )
    show(report, as_json, partial(display_changes.change, details=details), is_done=True)


def rename_class_command(
    name: Annotated[
        str, typer.Argument(metavar="OLD", help="Name of the class.", autocompletion=complete_class)
    ],
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    home: HomeOption = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Make it part of the class that is already called NEW.")
    ] = False,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Also merge a class that the vendor shipped.")
    ] = False,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give a class another name, or make one class of two; no photos needed."""
    from .. import rename_class

    chosen = increment_config(read_file_config(), sign_with=sign_with)
    opened = open_chosen_home(home)
    report = with_progress(
        lambda on: rename_class(
            opened,
            name,
            new_name,
            merge=merge,
            shipped=shipped,
            sign_with=chosen.sign_with,
            on_progress=on,
            wait=wait,
        ),
        brief=True,
    )
    show(report, as_json, partial(display_changes.change, details=details), is_done=True)


def undo_command(
    home: HomeOption = None,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Return to the model before the latest change, if the vendor permits it."""
    from .. import undo

    chosen = increment_config(read_file_config(), sign_with=sign_with)
    opened = open_chosen_home(home)
    report = with_progress(
        lambda on: undo(opened, sign_with=chosen.sign_with, on_progress=on, wait=wait), brief=True
    )
    show(report, as_json, partial(display_changes.change, details=details), is_done=True)

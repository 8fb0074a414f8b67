"""Defines the commands that remove or rename a class, or undo a change; none of them needs photos."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ..errors import ConfigError
from . import display_changes
from .answer import open_chosen_home, show, with_progress
from .completion import complete_class
from .options import DetailsOption, HomeOption, JsonOption, SignWithOption, WaitOption
from .settings import increment_config, read_file_config


def remove_class_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the class.", autocompletion=complete_class)
    ],
    home: HomeOption = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Also allow removing a class that the vendor shipped.")
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Leave the model as if it had never learnt the class; if impossible, refuse."
        ),
    ] = False,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a class that was added by mistake; this needs no photos."""
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
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="New name of the class.")],
    home: HomeOption = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the class into the one that is already called NEW.")
    ] = False,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Also allow merging a class that the vendor shipped.")
    ] = False,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rename a class, or merge two classes into one; this needs no photos."""
    from .. import rename_class

    if shipped and not merge:
        raise ConfigError("--shipped is for --merge; pass --merge too, or leave --shipped out")
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

"""Defines the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from .. import IncrementConfig
from ..records import Settings
from .settings import setting_help


def path_from(text: str) -> Path:
    """Reads a path from the command line; refuses an empty one, which Python takes for the current folder."""
    if not text:
        raise typer.BadParameter("the path is empty, as when a shell variable is not set")
    return Path(text)


def refuse_empty_paths(work: Callable[..., None]) -> None:
    """Makes `path_from` read all arguments and options of a command that are paths."""
    hints: dict[str, Any] = get_type_hints(work, include_extras=True)
    work.__annotations__ = hints  # typer would otherwise evaluate them again
    for hint in hints.values():
        value, *extra = get_args(hint)[:2] if get_origin(hint) is Annotated else (None,)
        if Path in (value, *get_args(value)):
            extra[0].parser = path_from


def setting(config: type[Settings], name: str, *flags: str, **extra: Any) -> Any:
    """Makes the option for a setting; the help text comes from the setting's field."""
    return typer.Option(*flags, help=setting_help(config, name), **extra)


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
DetailsOption = Annotated[
    bool,
    typer.Option("--details", help="Also print figures for engineers, such as memory, parity and digests."),
]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The model home. Default: $LWM_EDGE_HOME, then `home` in lwm-edge.toml, then the platform's "
        "folder for application data.",
    ),
]
PhotosArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PHOTOS", help="Folder with one sub-folder of photos per class, named after the class."
    ),
]
MaxMemoryOption = Annotated[str | None, setting(IncrementConfig, "max_memory", metavar="SIZE")]
MinPhotosOption = Annotated[int | None, setting(IncrementConfig, "min_photos")]
FreshOption = Annotated[bool | None, setting(IncrementConfig, "fresh")]
ForceOption = Annotated[bool | None, setting(IncrementConfig, "force")]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be learnt, and the memory, time and disk space needed; change nothing.",
    ),
]
NameOption = Annotated[str | None, setting(IncrementConfig, "class_name", "--name", metavar="NAME")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="If another process is changing the home, wait until it is done.")
]
TrustOption = Annotated[
    Path | None, typer.Option("--trust", metavar="VENDOR.pub", help="The vendor's public key.")
]
SignWithOption = Annotated[
    Path | None, setting(IncrementConfig, "sign_with", "--sign-with", metavar="FILE.key")
]

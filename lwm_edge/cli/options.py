"""Defines the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import IncrementConfig
from ..records import Settings
from .settings import setting_help


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
FreshOption = Annotated[bool, setting(IncrementConfig, "fresh")]
ForceOption = Annotated[bool, setting(IncrementConfig, "force")]
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

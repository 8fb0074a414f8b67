"""Defines `report`, which writes a page about a home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from ..records import printable
from .answer import open_chosen_home, show, with_progress
from .options import HomeOption, JsonOption
from .terminal import in_bytes, print_rows

if TYPE_CHECKING:
    from .. import PageReport


def report_command(
    place: Annotated[
        Path | None, typer.Argument(metavar="HOME", help="The model home, as with --home.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page to write.")
    ] = Path("report.html"),
    photos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Class folders of labelled photos, to measure the accuracy with."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page about the model: what it knows, how accurate it is, what it costs, where it comes from.

    The page is one file, which loads nothing from elsewhere and contains no photos.
    """
    from .. import write_report

    if place and home:
        raise ConfigError("HOME and --home were both given; give the one that is meant")
    opened = open_chosen_home(place or home)
    report = with_progress(
        lambda on: write_report(opened, output, photos=photos, on_progress=on),
        brief=photos is None,
    )
    show(report, as_json, page, is_done=True)


def page(report: PageReport) -> None:
    """Prints which page was written."""
    photos = f"{report.embedded_photos} of your photos; be careful who gets the page"
    rows = {
        "Page": f"{printable(report.page)}, {in_bytes(report.page_bytes)}",
        "Photos in it": photos if report.embedded_photos else "none",
        "Audit": "passed" if report.audit_passed else "FAILED; the page says why",
        "Origin": "proven" if report.custody_passed else "not proven; the page says why",
    }
    print_rows("Page written", rows)

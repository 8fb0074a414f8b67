"""Defines `check`, which looks for bad photos before the model learns from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import outputs
from ..errors import ConfigError
from ..records import printable
from ..wording import counted
from .answer import open_chosen_home, show, with_progress
from .options import HomeOption, JsonOption, NameOption, PhotosArgument
from .settings import increment_config, read_file_config
from .terminal import note, print_rows

if TYPE_CHECKING:
    from .. import CheckReport

_LISTED = 20


def check_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    class_name: NameOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="PAGE.html", help="Also write a page that shows harmful photos."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for harmful photos: blurred, black, white or tiny ones, near-duplicates and mislabelled ones.

    Nothing is learnt or changed, and nothing is copied except small pictures into the page that -o writes.
    """
    from .. import check_photos, write_check_page
    from ..pages.template import require_jinja2

    if output:
        if output.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"{output} is not an HTML file; choose a name that ends in .html")
        outputs.check_output(output)
        require_jinja2()
    name = increment_config(read_file_config(), class_name=class_name).class_name
    opened = open_chosen_home(home)
    report = with_progress(lambda on: check_photos(opened, photos, class_name=name, on_progress=on))
    if output:
        write_check_page(report, output)
    show(report, as_json, _printer(output), is_done=output is not None)


def _printer(page: Path | None) -> Callable[[CheckReport], None]:
    """Makes a function that prints a report, and names the page if one was written."""

    def print_report(report: CheckReport) -> None:
        """Prints what stands out, and what to do next."""
        photos = counted(sum(report.class_photos.values()), "photo", "photos")
        order = ", the worst first" if report.suspects else ""
        title = f"{len(report.suspects)} of {photos} to look at{order}"
        rows = {
            printable(suspect.photo.relative_to(report.folder)): "; ".join(f.reason for f in suspect.faults)
            for suspect in report.suspects[:_LISTED]
        }
        if (more := len(report.suspects) - _LISTED) > 0:
            rows["..."] = f"and {more} more; --json lists them all, and -o PAGE.html shows the worst"
        print_rows(title, rows or {"Photos": "none stand out"})
        if report.alike:
            print_rows(
                "Classes that look alike",
                {
                    pair.class_name: f"{pair.taken} of {pair.photos} photos look like {pair.other}"
                    + (", which the model knows already" if pair.is_known else "")
                    for pair in report.alike
                },
            )
        if report.suspects:
            print_rows(
                "What next", {"Look at them": "remove the bad ones; add-classes learns from all that remain"}
            )
        if page:
            print_rows("Page", {"Open it in a browser": printable(page)})
        for line in report.notes:
            note(f"Note: {line}")

    return print_report

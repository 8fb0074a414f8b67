"""Makes the photo doctor's page, which shows the photos that deserve a look, with the reasons."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from .. import outputs
from ..errors import PhotosError
from ..increment.findings import CheckReport, SuspectPhoto
from ..photos.preprocessing import Preprocessing
from ..photos.reading import read_photo
from ..records import AnyPath, printable
from .template import fill

_TEMPLATE = Path(__file__).with_suffix(".html")
_THUMBNAIL = Preprocessing(image_size=128, resize_size=128, mean=(0, 0, 0), std=(1, 1, 1))
_MOST_ROWS = 500  # each has one or two pictures of about 5 kB


def write_check_page(report: CheckReport, output: AnyPath) -> None:
    """Writes the findings of `check_photos` as a page for a browser, with small pictures of the photos.

    Args:
        report: Report of `check_photos`; the photos that the page shows are read again.
        output: HTML file to write.

    Raises:
        ConfigError: The output cannot be written, or jinja2 is not installed.
        HomeError: Writing the file failed.
        ResourceError: The disk is full.
    """
    outputs.write_output(Path(output), check_page(report))


def check_page(report: CheckReport) -> bytes:
    """Returns the page as HTML in UTF-8.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    content = {
        "report": report,
        "folder": printable(report.folder),
        "photos": sum(report.class_photos.values()),
        "rows": [_row(suspect, report.folder) for suspect in report.suspects[:_MOST_ROWS]],
        "more": max(0, len(report.suspects) - _MOST_ROWS),
    }
    return fill(_TEMPLATE, content)


def _row(suspect: SuspectPhoto, folder: Path) -> dict[str, object]:
    shown = suspect.photo.relative_to(folder) if suspect.photo.is_relative_to(folder) else suspect.photo
    return {
        "name": printable(shown),
        "picture": _picture(suspect.photo),
        "like": _picture(suspect.like) if suspect.like else None,
        "reasons": [fault.reason for fault in suspect.faults],
    }


def _picture(path: Path) -> dict[str, str]:
    """Returns a small picture of a photo as a data URI, or the reason why there is none."""
    try:
        pixels = read_photo(path, _THUMBNAIL)
    except PhotosError as error:
        return {"problem": error.message}
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=80)
    return {"address": f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"}

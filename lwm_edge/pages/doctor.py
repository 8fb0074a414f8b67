"""Makes the photo doctor's page: the photos to look at, with pictures, and why."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from string import Template

from PIL import Image

from .. import outputs
from ..errors import PhotosError
from ..increment.findings import CheckReport, SuspectPhoto
from ..photos.preprocessing import Preprocessing
from ..photos.reading import read_photo
from ..records import AnyPath, printable, utf8_text

_THUMBNAIL = Preprocessing(image_size=128, resize_size=128, mean=(0, 0, 0), std=(1, 1, 1))
_MOST_PICTURES = 500  # of some 5 kB each


def write_check_page(report: CheckReport, output: AnyPath) -> None:
    """Writes what `check_photos` found as a page for a browser, with small pictures of the photos in it.

    Args:
        report: Report of `check_photos`; its photos are read again.
        output: HTML file to write.

    Raises:
        ConfigError: The output is not a file that can be written.
    """
    outputs.write_output(Path(output), check_page(report).encode())


def check_page(report: CheckReport) -> str:
    """Returns the page as HTML."""
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    photos, folder = sum(report.class_photos.values()), _text(printable(report.folder))
    alike = (
        f"{_text(pair.class_name)}: {pair.taken} of {pair.photos} photos look like {_text(pair.other)}"
        + (", which the model knows already" if pair.is_known else "")
        for pair in report.alike
    )
    return template.substitute(
        summary=f"{len(report.suspects)} of {photos} usable photos in {folder}, the worst first.",
        alike=_section("Classes that look alike", alike),
        suspects=_table(report),
        skipped=_section("Files that are left out anyway", map(_text, report.skipped)),
        notes=_section("What was not looked for", map(_text, report.notes)),
    )


def _text(text: str) -> str:
    """Escapes text, and keeps it from changing the direction of what stands around it."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in utf8_text(text))
    return f"<bdi>{html.escape(shown)}</bdi>"


def _section(title: str, lines: Iterable[str]) -> str:
    items = "\n".join(f"<li>{line}</li>" for line in lines)
    return f"<h2>{title}</h2>\n<ul>\n{items}\n</ul>" if items else ""


def _table(report: CheckReport) -> str:
    if not report.suspects:
        return "<p>No photo stands out.</p>"
    rows = "\n".join(_row(suspect, report.folder) for suspect in report.suspects[:_MOST_PICTURES])
    more = len(report.suspects) - _MOST_PICTURES
    rest = f"\n<p>And {more} more, in <code>lwm-edge check --json</code>.</p>" if more > 0 else ""
    return f"<table>\n<tr><th>Photo</th><th>Like</th><th>What is wrong</th></tr>\n{rows}\n</table>{rest}"


def _row(suspect: SuspectPhoto, folder: Path) -> str:
    shown = suspect.photo.relative_to(folder) if suspect.photo.is_relative_to(folder) else suspect.photo
    reasons = "".join(f"<li>{_text(fault.reason)}</li>" for fault in suspect.faults)
    like = _picture(suspect.like) if suspect.like else ""
    name = _text(printable(shown))
    cells = (f'<td class="picture">{cell}</td>' for cell in (_picture(suspect.photo), like))
    return f"<tr>{''.join(cells)}<td>{name}<ul>{reasons}</ul></td></tr>"


def _picture(path: Path) -> str:
    """Returns a small picture of a photo, or why there is none."""
    try:
        pixels = read_photo(path, _THUMBNAIL)
    except PhotosError as error:
        return _text(error.message)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=80)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'

"""The page of the photo doctor embeds its pictures, escapes names, and requests nothing."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import lwm_edge
from lwm_edge.errors import LwmEdgeError
from lwm_edge.increment.findings import AlikeClasses, CheckReport, Fault, SuspectPhoto
from lwm_edge.pages.doctor import check_page

pytest.importorskip("jinja2", reason="the extra `report` is not installed")

EVIL = '<script src="//evil">\u202e&\x1b[2J'


class Page(HTMLParser):
    """Collects the tags, addresses and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def report(tmp_path: Path) -> CheckReport:
    Image.linear_gradient("L").save(tmp_path / "a<b>.png")
    fault = Fault(kind="mislabelled", reason=f"looks like {EVIL} rather than Cup", weight=0.9)
    return CheckReport(
        folder=tmp_path,
        class_photos={"Cup": 3},
        suspects=(
            SuspectPhoto(photo=tmp_path / "a<b>.png", class_name="Cup", faults=(fault,)),
            SuspectPhoto(
                photo=tmp_path / "gone\udcff.png",
                class_name="Cup",
                faults=(fault,),
                like=tmp_path / "a<b>.png",
            ),
        ),
        alike=(AlikeClasses(class_name=EVIL, other="Mug", taken=2, photos=3, is_known=True),),
        skipped=(EVIL,),
        notes=(EVIL,),
    )


def test_pictures_are_in_the_page_and_nothing_is_requested(report: CheckReport) -> None:
    page = Page(check_page(report).decode())
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "form", "object"} & set(page.tags)
    assert "cannot be read (No such file or directory)" in page.text


def test_names_are_escaped(report: CheckReport) -> None:
    content = check_page(report).decode()
    assert "<script" not in content and "\u202e" not in content and "\x1b" not in content
    page = Page(content)
    assert page.text.count('<script src="//evil">') == 5 and "a<b>.png" in page.text
    assert "gone\\xff.png" in page.text and "which the model knows already" in page.text


def test_a_report_without_suspects(report: CheckReport) -> None:
    update: dict[str, Any] = {"suspects": (), "alike": (), "skipped": (), "notes": ()}
    text = Page(check_page(report.model_copy(update=update)).decode()).text
    assert "No photo stands out." in text and "Classes that look alike" not in text


def test_the_column_for_similar_photos_appears_only_if_there_are_any(report: CheckReport) -> None:
    alone = report.model_copy(update={"suspects": report.suspects[:1], "class_photos": {"Cup": 1}})
    both, one = check_page(report).decode(), check_page(alone).decode()
    assert "<th>Nearly the same as</th>" in both and "<th>Nearly the same as</th>" not in one
    assert both.count("<td") == 3 * 2 and one.count("<td") == 2
    assert "1 of 1 usable photo in" in one


def test_the_page_is_written_to_the_given_path(report: CheckReport, tmp_path: Path) -> None:
    lwm_edge.write_check_page(report, tmp_path / "page.html")
    assert "Photos to look at" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(LwmEdgeError):
        lwm_edge.write_check_page(report, tmp_path / "none" / "page.html")

"""A page shows what a model knows and how accurate it is, requests nothing, and copes with any name."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

from lwm_edge import (
    IncrementConfig,
    add_classes,
    add_classes_with_page,
    audit,
    init_home,
    open_home,
    remove_class,
    rename_class,
    undo,
    write_report,
)
from lwm_edge.cli import commands
from lwm_edge.errors import ConfigError, ResourceError
from lwm_edge.home.home import Home
from lwm_edge.model.bundle import open_bundle, save_bundle
from lwm_edge.model.tensors import RIGHT, RIGHT_SOLVED, TOTAL, WEIGHT
from lwm_edge.pages.facts import NOW, THEN, gather_facts, wilson_interval
from tests.pages.conftest import HOSTILE, PageMaker
from tests.support.folders import BASE_BUNDLE, DEMO_DATA, PhotoMaker, state_of
from tests.support.samples import DEVICE

TRAINS = IncrementConfig(
    recipe="lwm-lda", epochs=1, batch_size=16, micro_batch_size=16, device=DEVICE, force=True
)


class Page(HTMLParser):
    """Collects a page's elements, what they refer to, their event handlers, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.references.append(str(value))
            self.handlers += [name] if name.startswith("on") else []

    def handle_data(self, text: str) -> None:
        self.text += text


@pytest.mark.parametrize("count", [1, 3, 300])
def test_a_page_stands_alone_and_copes_with_any_name(make_page: PageMaker, count: int) -> None:
    path = make_page(count)
    page = Page(path)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "img"} & set(page.elements)
    assert all(reference.startswith("#") for reference in page.references) and not page.handlers
    assert set(re.findall(r"url\((.)", path.read_text())) <= {"#"}
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<)]+", path.read_text())) <= namespaces
    for name in HOSTILE[:count]:
        assert name in page.text
    assert "default-src 'none'" in path.read_text()
    assert ("276 more classes" in page.text) == (count == 300)


def test_the_colours_of_charts_come_from_the_page(make_page: PageMaker) -> None:
    text = make_page(9).read_text()
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        assert "var(--accent)" in chart and not re.search(r"#0[1-4]0[1-4]0[1-4]", chart)
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", chart)) <= {"#000000"}


def test_another_process_may_change_the_home_meanwhile(home: Home) -> None:
    names = iter(("Jeans", "Shorts", "Breeches"))
    current = ["Trouser"]

    def rename() -> None:
        new = next(names)
        rename_class(home, current.pop(), new)
        current.append(new)

    assert "Jeans" in {fact.name for fact in gather_facts(home, report=rename).classes}


def test_intervals_are_wider_the_fewer_photos_there_were() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(9, 10)
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)  # as in published tables
    assert wilson_interval(90, 100)[0] > low and wilson_interval(90, 100)[1] < high
    assert wilson_interval(20, 20)[1] == 1.0 and wilson_interval(0, 20)[0] == pytest.approx(0.0)


@pytest.mark.slow
def test_a_page_about_a_home_shows_what_is_known(home: Home, make_photos: PhotoMaker, tmp_path: Path) -> None:
    add_classes(home, make_photos("Bag"), isolate=False)
    before, page = state_of(home.path), tmp_path / "page.html"
    report = write_report(home, page)
    text = " ".join(Page(page).text.split())
    assert report.page_bytes == page.stat().st_size and report.audit_passed and not report.custody_passed
    assert "7classes: 6 shipped, 1 added" in text and "This page holds no photos" in text
    assert (
        "not proven" in text
        and "What was planned, and what was measured" in text
        and "no key to verify against" in text
    )
    facts = gather_facts(home)
    assert facts.classes[-1].source == THEN and facts.classes[-1].total == 8 and not facts.classes[0].total
    write_report(home, page, photos=DEMO_DATA / "test" / "base")
    text = " ".join(Page(page).text.split())
    assert f"{NOW}" in text and "of 50" in text
    assert state_of(home.path) == before


@pytest.mark.slow
def test_classes_of_earlier_increments_keep_the_figures_from_when_they_were_learnt(
    home: Home, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    first = add_classes(home, make_photos("Bag"), isolate=False)
    add_classes(home, make_photos("Shirt", folder="more"), isolate=False)
    facts = {fact.name: fact for fact in gather_facts(home).classes}
    (bag,) = first.judged
    assert (facts["Bag"].right, facts["Bag"].total, facts["Bag"].source) == (bag.right, bag.photos, THEN)
    assert facts["Bag"].interval == wilson_interval(bag.right, bag.photos) and facts["Shirt"].total
    write_report(home, tmp_path / "page.html")
    text = " ".join(Page(tmp_path / "page.html").text.split())
    assert text.count("when the class was learnt, with the model of that day") >= 2
    assert "there is no figure from the day" not in text


def test_no_page_is_written_into_a_home_or_without_its_libraries(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_of(home.path)
    (tmp_path / "link").symlink_to(home.path)
    for place in (home.path / "page.html", tmp_path / "link" / "page.html"):
        with pytest.raises(ConfigError, match="is in the model home"):
            write_report(home, place)
    for library in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(ConfigError, match=f"{library}; install it with: pip install {library}"):
                write_report(home, tmp_path / "page.html")
    assert state_of(home.path) == before and not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_a_page_about_an_increment_without_training_shows_photos_but_no_maps(
    home: Home, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    taught = add_classes_with_page(home, make_photos("Bag", "Shirt"), page, isolate=False)
    assert taught.page is not None and taught.page.embedded_photos == 8 + len(taught.receipt.mistakes)
    shown = Page(page)
    assert shown.elements.count("img") == taught.page.embedded_photos
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in shown.references)
    text = " ".join(shown.text.split())
    assert f"This page holds {taught.page.embedded_photos} of your photos" in text
    assert "Recipe lda did not train the network" in text
    assert audit(home).passed and "mistakes" not in json.loads(home.current().receipt.read_text())


@pytest.mark.slow
def test_the_receipt_is_returned_even_if_the_page_cannot_be_written(
    home: Home, make_photos: PhotoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr("lwm_edge.pages.moment.render", full)
    taught = add_classes_with_page(home, make_photos("Bag"), tmp_path / "page.html", isolate=False)
    assert taught.page is None and taught.receipt.new_classes == ("Bag",)
    assert taught.receipt.warnings[-1] == "the page was not written: the disk is full"


@pytest.mark.slow
def test_a_page_about_an_increment_that_trains_shows_maps_before_and_after(
    home: Home, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    taught = add_classes_with_page(home, make_photos("Bag", "Shirt"), page, TRAINS)
    shown = Page(page)
    assert taught.receipt.training is not None
    assert shown.elements.count("img") == 3 * 8 + len(taught.receipt.mistakes)
    text = " ".join(shown.text.split())
    assert "where the model looked before" in text and "with the evidence for" in text
    for mistake in taught.receipt.mistakes:
        assert mistake.photo.is_file() and mistake.taken_for != mistake.class_name


def test_the_command_writes_a_page(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["lwm-edge", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            commands.main()
        return end.value.code or 0, capsys.readouterr().out

    page = tmp_path / "page.html"
    code, out = run("report", home.path, "-o", page)
    assert code == 0 and f"{page}, " in out and "Photos in it  none" in out
    code, out = run("report", "--home", home.path, "-o", page, "--json")
    assert code == 0 and json.loads(out)["embedded_photos"] == 0
    assert run("report", home.path, "-o", home.path / "page.html")[0] == 2


@pytest.mark.slow
def test_the_vendors_figures_are_those_of_the_head_that_the_model_has_now(
    make_photos: PhotoMaker, tmp_path: Path
) -> None:
    base = open_bundle(BASE_BUNDLE)
    arrays = base.arrays()
    arrays[WEIGHT][1:3] *= 1.5  # the statistics give another head, so this one counts as trained
    arrays[RIGHT][:6], arrays[RIGHT_SOLVED][:6], arrays[TOTAL][:6] = 47, 46, 50
    manifest = base.manifest.model_copy(update={"permits": ("undo",)})
    save_bundle(tmp_path / "trained.lwm", arrays, manifest)
    init_home(tmp_path / "trained.lwm", tmp_path / "home")
    home = open_home(tmp_path / "home")

    def right() -> set[int]:
        return {fact.right for fact in gather_facts(home).classes if fact.shipped and fact.total}

    assert right() == {47}
    rename_class(home, "Coat", "Mantel")
    assert right() == {47}
    remove_class(home, "Mantel", shipped=True)
    assert right() == {47}
    add_classes(home, make_photos("Bag"), IncrementConfig(recipe="lda"), isolate=False)
    assert right() == {46}
    undo(home)
    assert right() == {47}
    undo(home)
    remove_class(home, "Bag")
    assert right() == {46}

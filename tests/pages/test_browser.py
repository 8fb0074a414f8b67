"""In a headless Chromium, pages fit phones and desktops, have light and dark colours, and request nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

from lwm_edge import add_classes_with_page, check_photos, write_check_page
from lwm_edge.home.home import Home
from tests.pages.conftest import HOSTILE, PageMaker
from tests.support.folders import PhotoMaker

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 360, 1280
LOOKS = """
<!DOCTYPE html><title>looks</title>
<iframe id="page" style="border:0;width:%dpx;height:3000px" srcdoc="%s"></iframe>
<script>
onload = () => {
  const page = document.getElementById("page"), root = page.contentDocument.documentElement;
  const body = page.contentWindow.getComputedStyle(page.contentDocument.body);
  const wide = [...page.contentDocument.querySelectorAll("*")].filter(
    (e) => e.getBoundingClientRect().right > %d + 1 && !e.closest("svg")).map((e) => e.outerHTML);
  document.title = JSON.stringify({
    width: root.scrollWidth, wide: wide, paper: body.backgroundColor, ink: body.color,
    title: page.contentDocument.title,
    requests: page.contentWindow.performance.getEntriesByType("resource").map((r) => r.name),
  });
};
</script>
"""

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]


def _looks(page: Path, width: int, dark: bool) -> Any:
    wrapper = page.with_suffix(f".{width}.html")
    wrapper.write_text(LOOKS % (width, html.escape(page.read_text()), width))
    scheme = 0 if dark else 1
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--blink-settings=preferredColorScheme={scheme}",
    ]
    command = [str(CHROMIUM), *options, f"--window-size={max(width, 500)},3000", "--dump-dom", str(wrapper)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stdout[:500]
    return json.loads(html.unescape(found[1]))


def _assert_that_the_page_fits_and_requests_nothing(page: Path, width: int, title: str) -> None:
    light, dark = (_looks(page, width, dark) for dark in (False, True))
    for looks in (light, dark):
        assert looks["width"] <= width and not looks["wide"] and not looks["requests"]
        assert looks["title"] == title
    assert _brightness(light["paper"]) > 200 > 100 > _brightness(light["ink"])
    assert _brightness(dark["paper"]) < 60 < 200 < _brightness(dark["ink"])


def _brightness(colour: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3


@pytest.mark.parametrize("count", [3, 300])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_report_fits_and_requests_nothing(make_page: PageMaker, count: int, width: int) -> None:
    _assert_that_the_page_fits_and_requests_nothing(make_page(count), width, "What home knows")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_report_on_an_increment_fits_and_requests_nothing(
    home: Home, make_photos: PhotoMaker, tmp_path: Path, width: int
) -> None:
    photos = make_photos(renamed={HOSTILE[3]: "Bag", HOSTILE[1]: "Shirt"})
    add_classes_with_page(home, photos, tmp_path / "page.html", isolate=False)
    _assert_that_the_page_fits_and_requests_nothing(tmp_path / "page.html", width, "What home knows")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_doctors_page_fits_and_requests_nothing(
    home: Home, make_photos: PhotoMaker, tmp_path: Path, width: int
) -> None:
    photos = make_photos(renamed={HOSTILE[3]: "Bag", HOSTILE[1]: "Shirt"})
    with Image.open(photos / HOSTILE[3] / "000.png") as image:
        image.point(lambda value: value // 20).save(photos / HOSTILE[3] / f"{'dark' * 40}.png")
    report = check_photos(home, photos)
    assert report.suspects
    write_check_page(report, tmp_path / "page.html")
    _assert_that_the_page_fits_and_requests_nothing(tmp_path / "page.html", width, "Photos to look at")

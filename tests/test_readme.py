"""The README leads a newcomer to the demo and to every other page, and links inside the project work."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lwm_edge import DemoReport
from lwm_edge.cli import display
from lwm_edge.demo import INCREMENTS, DemoRow
from tests.support.pages import PAGES, ROOT, anchors, block, blocks, read


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = Path(os.path.normpath(folder / path)) if path else ROOT / page  # the package may be a link
        assert found.is_relative_to(ROOT) and found.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(str(found.relative_to(ROOT))), f"{page}: {target}"


def test_the_readme_links_to_every_other_page() -> None:
    assert all(f"({page})" in read("README.md") for page in PAGES[1:])


def test_the_readme_leads_to_the_demo_before_any_table() -> None:
    readme = read("README.md")
    first_screen = readme[: readme.index("\n## ")]
    assert all(
        text in first_screen for text in ("the default does", "the paper's loop", "The receipt says which")
    )
    demo = readme.index("<!-- demo-command -->")
    assert "|---" not in readme[:demo] and "┏" not in readme[:demo]
    assert len(readme.splitlines()) <= 128


def test_the_gate_runs_exactly_the_readmes_two_commands() -> None:
    gate = read(".ci/run")
    assert 'bash -euxc "$(readme_command demo-command)"' in gate
    for part in ("sed '$d'", "tail -n 1"):  # first the installation, then the tests
        assert f'bash -euxc "$(readme_command test-command | {part})"' in gate
    assert block("README.md", "demo-command").splitlines()[-1] == ".venv/bin/lwm-edge demo"
    assert block("README.md", "test-command").splitlines()[-1] == ".venv/bin/pytest"


def test_the_readme_shows_the_demo_as_it_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = (b.text for b in blocks("README.md") if "┏" in b.text)
    lines = shown.splitlines()
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line[0] == "│"]
    sizes = {line.split()[0]: _numbers(line) for line in lines if "->" in line}
    report = DemoReport(
        rows=tuple(_demo_row(*cells) for cells in table),
        increments=INCREMENTS,
        bundle_bytes=sizes["Bundle"],
        onnx_bytes=sizes["ONNX"],
        home_bytes=sizes["Whole"],
        home="lwm-edge-demo/auto",
        onnx="lwm-edge-demo/auto/current/classifier.onnx",
        audit_passed=True,
        seconds=_numbers(lines[-1])[0],
    )
    monkeypatch.setenv("COLUMNS", "100")
    display.demo(report)
    printed = capsys.readouterr().out
    assert [line.rstrip() for line in printed.splitlines()] == [line.rstrip() for line in lines]


def _demo_row(method: str, shipped: str, *steps: str) -> DemoRow:
    figures = [[float(figure) / 100 for figure in step.split(" / ")] for step in steps]
    old, new, everything = zip(*figures, strict=True)
    first = float(shipped) / 100
    return DemoRow(method=method, old=(first, *old), new=(None, *new), all=(first, *everything))


def _numbers(line: str) -> tuple[int, ...]:
    return tuple(int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", line))

"""An owner's day of commands, from a phone's folder to a prediction, prints what deploy/README.md shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import audit
from tests.support.folders import DEMO_DATA, state_of
from tests.support.pages import ROOT, block, commands

PAGE, LOOKS_ONLY = "deploy/README.md", ("check", "--dry-run", "report", "audit", "predict")
VARIES = r"\d[\d.]*(?= s\b|%)|\d+(?= of \d+ photos? recognised)|(?<=000.png: Bag).*"
ROW_LABEL = " {2}How well {9}| {19}"


def stable(text: str) -> str:
    """Hides what can differ on another machine: times, figures, and which row of a table comes first."""
    return re.sub(VARIES, "_", re.sub(ROW_LABEL, "", text))


@pytest.mark.slow
def test_an_owners_day_prints_what_the_page_shows(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("pillow_heif", "imagehash", "jinja2", "matplotlib"):
        pytest.importorskip(library)
    (tmp_path / "lwm_edge").mkdir()
    (tmp_path / "lwm_edge/demo_data").symlink_to(DEMO_DATA)
    printed = ""
    for line in commands(block(PAGE, "owners-day")):
        program, *arguments = shlex.split(line)
        home = tmp_path / "owners_home"
        before = state_of(home) if home.exists() else {}
        if program == "python":
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, check=True)
        elif program == "export":
            monkeypatch.setenv(*arguments[0].split("="))
        elif program == "rm":
            for photo in arguments:
                (tmp_path / photo).unlink()
        else:
            done = run(*arguments)
            assert done.code == 0, done.err
            printed += done.err + done.out
            assert audit(home).passed, line
            assert (state_of(home) == before) == any(word in arguments for word in LOOKS_ONLY), line
    missing = [
        line for line in block(PAGE, "owners-day-printed").splitlines() if stable(line) not in stable(printed)
    ]
    assert not missing, printed
    left_by_computers = "DS_Store|Thumbs|MACOSX"  # such files are never mentioned
    assert not re.search(left_by_computers, printed)

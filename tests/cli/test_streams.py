"""What was done decides the exit code, not whether it could be printed.

What this prints is published in tests/README.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lwm_edge.home.home import Home
from tests.support.folders import PhotoMaker
from tests.support.hostile import published

NAME = "Börse 包"
ENCODINGS = ("ascii", "latin-1", "gbk", "utf-8")
GONE = {
    "full": ">/dev/full",
    "closed": ">&-",
    "both closed": ">&- 2>&-",
    "all three closed": "<&- >&- 2>&-",
    "a reader that left": "| true",
    "a reader that left after a line": "2>&1 | head -n 1",
    "both full": ">/dev/full 2>/dev/full",
}


def _run(command: str, encoding: str = "utf-8", before: str = "") -> subprocess.CompletedProcess[bytes]:
    """Runs a command line of bash; its status is that of lwm-edge."""
    lwm_edge = f"{sys.executable} -m lwm_edge"
    return subprocess.run(
        ["bash", "-c", f"{before} {lwm_edge} {command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )


def _is_done(command: str, home: Home, where: str, encoding: str, *, as_json: bool) -> bytes:
    """Runs a change, and returns what it printed."""
    done = _run(f"{command} --home '{home.path}'{' --json' if as_json else ''} {where}", encoding)
    assert done.returncode == 0, (command, encoding, where, done.stderr)
    assert b"Traceback" not in done.stderr
    return done.stdout


def test_a_committed_change_exits_with_0(home: Home, tmp_path: Path, make_photos: PhotoMaker) -> None:
    teach, remove = (
        f"add-classes '{make_photos(renamed={NAME: 'Bag'})}' --recipe lda",
        f"remove-class '{NAME}'",
    )
    tried = 0
    shutil.copytree(home.path, tmp_path / "shipped", symlinks=True)
    _run(f"{teach} --home '{home.path}'")
    shutil.copytree(home.path, tmp_path / "taught", symlinks=True)
    cases = [(encoding, "") for encoding in ENCODINGS] + [("ascii", where) for where in GONE.values()]
    for number, (encoding, where) in enumerate(
        [*cases, ("utf-8", GONE["full"]), ("gbk", GONE["both closed"])]
    ):
        as_json = number % 2 == 0
        command, start = (remove, "taught") if number % 3 else (teach, "shipped")
        shutil.rmtree(home.path)
        shutil.copytree(tmp_path / start, home.path, symlinks=True)
        printed = _is_done(command, home, where, encoding, as_json=as_json)
        assert (NAME in home.open_bundle().manifest.class_names) == (command == teach)
        if not where and as_json:
            assert NAME in json.loads(printed).get("new_classes", [json.loads(printed).get("removed_class")])
        tried += 1
    assert published(f"| a change whose report could not be printed, or not in full | {tried} | nothing |")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_cannot_be_encoded_is_escaped(home: Home, encoding: str) -> None:
    (home.path / NAME).mkdir()
    told = _run(f"audit --home '{home.path}'", encoding)
    assert NAME.encode(encoding, "backslashreplace") in told.stdout + told.stderr


def test_a_report_that_is_lost_is_a_failure_where_nothing_was_done(home: Home) -> None:
    for command in ("info", "audit"):
        lost = _run(f"{command} --home '{home.path}' >/dev/full")
        assert lost.returncode == 5 and b"the report is lost" in lost.stderr
    left = _run(f"info --home '{home.path}' | true")
    assert (left.returncode, left.stderr) == (0, b"")


def test_a_failed_audit_is_one_whoever_reads_it(home: Home) -> None:
    (home.path / "stranger").touch()
    assert _run(f"audit --home '{home.path}' | true").returncode == 4


def test_an_error_keeps_its_exit_code(home: Home) -> None:
    for where in (GONE["full"], GONE["both closed"], GONE["a reader that left"]):
        assert _run(f"remove-class Hat --home '{home.path}' --json {where}", "ascii").returncode == 2, where


def test_an_export_to_standard_output_is_the_file_and_nothing_else(home: Home, tmp_path: Path) -> None:
    assert _run(f"export - --home '{home.path}'").stdout == home.onnx.read_bytes()
    assert _run(f"export - --home '{home.path}' >&-").returncode != 0
    cut = f"export - --home '{home.path}' >'{tmp_path / 'cut'}'"
    assert _run(cut, before="ulimit -f 8; PYTHONUNBUFFERED=1").returncode != 0
    assert _run(f"export - --home '{home.path}' >/dev/full").returncode == 5
    assert _run(f"export - --home '{home.path}' | head -c 10").returncode == 0
    assert _run(f"export - --home '{home.path}' --json").returncode == 2

"""The exit code of a change depends on what was done, not on whether its report could be printed.

tests/README.md publishes the count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
    "a reader that quits": "| true",
    "a reader that quits after a line": "2>&1 | head -n 1",
    "both full": ">/dev/full 2>/dev/full",
}


def _run(command: str, encoding: str = "utf-8", before: str = "") -> subprocess.CompletedProcess[bytes]:
    """Runs a bash command line, which exits with lwm-edge's exit code."""
    lwm_edge = f"{sys.executable} -m lwm_edge"
    return subprocess.run(
        ["bash", "-c", f"{before} {lwm_edge} {command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )


def _run_all(*commands: tuple[str, ...]) -> list[subprocess.CompletedProcess[bytes]]:
    """Runs commands two at a time, because each has only one thread, which mostly loads libraries."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda arguments: _run(*arguments), commands))


def _change(command: str, home: Home, where: str, encoding: str, *, as_json: bool) -> bytes:
    """Runs a change, and returns what it printed."""
    done = _run(f"{command} --home '{home.path}'{' --json' if as_json else ''} {where}", encoding)
    assert done.returncode == 0, (command, encoding, where, done.stderr)
    assert b"Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_committed_change_exits_with_0(home: Home, tmp_path: Path, make_photos: PhotoMaker) -> None:
    teach, remove = (
        f"add-classes '{make_photos(renamed={NAME: 'Bag'})}' --recipe lda",
        f"remove-class '{NAME}'",
    )
    taught = tmp_path / "taught"
    shutil.copytree(home.path, taught, symlinks=True)
    _run(f"{teach} --home '{taught}'")

    def attempt(number: int, encoding: str, where: str) -> None:
        as_json = number % 2 == 0
        command, start = (remove, taught) if number % 3 else (teach, home.path)
        changed = Home(shutil.copytree(start, tmp_path / f"home{number}", symlinks=True))
        printed = _change(command, changed, where, encoding, as_json=as_json)
        assert (NAME in changed.open_bundle().manifest.class_names) == (command == teach)
        if not where and as_json:
            assert NAME in json.loads(printed).get("new_classes", [json.loads(printed).get("removed_class")])

    cases = [(encoding, "") for encoding in ENCODINGS] + [("ascii", where) for where in GONE.values()]
    cases += [("utf-8", GONE["full"]), ("gbk", GONE["both closed"])]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, range(len(cases)), *zip(*cases, strict=True)))
    tried = len(cases)
    where = "to an output that is full, closed or not read to the end"
    assert published(f"| a change that prints in one of four encodings, or {where} | {tried} | nothing |")


@pytest.mark.slow
def test_characters_that_cannot_be_encoded_are_escaped(home: Home) -> None:
    (home.path / NAME).mkdir()
    told = _run_all(*((f"audit --home '{home.path}'", encoding) for encoding in ENCODINGS))
    for encoding, run in zip(ENCODINGS, told, strict=True):
        assert NAME.encode(encoding, "backslashreplace") in run.stdout + run.stderr, encoding


@pytest.mark.slow
def test_a_lost_report_is_a_failure_if_nothing_was_changed(home: Home) -> None:
    *lost, left = _run_all(
        (f"info --home '{home.path}' >/dev/full",),
        (f"audit --home '{home.path}' >/dev/full",),
        (f"info --home '{home.path}' | true",),
    )
    for run in lost:
        assert run.returncode == 5 and b"the report is lost" in run.stderr
    assert (left.returncode, left.stderr) == (0, b"")


@pytest.mark.slow
def test_a_failed_audit_fails_even_if_nobody_reads_it(home: Home) -> None:
    (home.path / "stranger").touch()
    assert _run(f"audit --home '{home.path}' | true").returncode == 4


@pytest.mark.slow
def test_an_error_keeps_its_exit_code(home: Home, tmp_path: Path) -> None:
    commands = []
    for number, where in enumerate((GONE["full"], GONE["both closed"], GONE["a reader that quits"])):
        own = shutil.copytree(home.path, tmp_path / f"home{number}", symlinks=True)
        commands.append((f"remove-class Hat --home '{own}' --json {where}", "ascii"))
    ends = _run_all(*commands)
    assert [run.returncode for run in ends] == [2, 2, 2]
    assert b"knows no class 'Hat'" in ends[0].stderr  # it would be lost with the JSON document


@pytest.mark.slow
def test_an_export_to_standard_output_is_the_file_and_nothing_else(home: Home, tmp_path: Path) -> None:
    export = f"export - --home '{home.path}'"
    whole, full, cut, as_json, closed = _run_all(
        (export,),
        (f"{export} >/dev/full",),
        (f"{export} | head -c 10",),
        (f"{export} --json",),
        (f"{export} >&-",),
    )
    assert whole.stdout == home.onnx.read_bytes()
    assert (full.returncode, cut.returncode, as_json.returncode) == (5, 0, 2)
    assert closed.returncode != 0
    short = _run(f"{export} >'{tmp_path / 'short'}'", before="ulimit -f 8; PYTHONUNBUFFERED=1")
    # A raw stream may write only part of the bytes; only its return value says how many.
    assert short.returncode != 0


@pytest.mark.slow
def test_help_that_is_lost_is_a_failure() -> None:
    *lost, left = _run_all(("--help >/dev/full",), ("info --help >/dev/full",), ("--help | true",))
    for run in lost:
        assert run.returncode == 5 and b"the report is lost" in run.stderr
    assert (left.returncode, left.stderr) == (0, b"")


def test_a_terminal_of_no_width_gets_every_line() -> None:
    done, failed = _run_all(
        ("info lwm_edge/demo_data/base.lwm", "utf-8", "COLUMNS=0"), ("info /nope", "utf-8", "COLUMNS=0")
    )
    assert done.returncode == 0 and b"small_resnet20" in done.stdout
    assert failed.returncode == 4 and b"/nope" in failed.stderr

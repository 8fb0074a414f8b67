"""Every phase says how far it has got and how much longer it will take, on a terminal and in plain lines."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import lwm_edge
from lwm_edge import IncrementConfig, Progress
from lwm_edge.cli import commands, progress
from lwm_edge.records import one_step
from tests.support.folders import DEMO_DATA, PhotoMaker

PHOTOS = [Progress(phase="photos", done=done, total=100) for done in range(100)]
COMMIT = one_step("commit", 3.2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_say_how_far_a_phase_has_got_and_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    show = progress.plain_lines(clock)
    for step in PHOTOS:
        show(step)
        clock.now += 3.0
    for done in range(8):
        show(Progress(phase="evaluate", done=done, total=8))
    show(COMMIT)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Reading 100 photos ...", "Reading photos 4/100, about 5 min to go"]
    assert "Reading photos 96/100, about 12 s to go" in lines
    assert lines[-2:] == ["Evaluating, 8 steps ...", "Saving and checking the new model, takes about 3 s ..."]
    assert len(lines) == 27  # at least ten seconds apart: one line for every fourth step of three seconds


@pytest.mark.parametrize("brief", [False, True])
def test_waiting_for_a_busy_home_is_told_again_and_again(
    capsys: pytest.CaptureFixture[str], brief: bool
) -> None:
    clock = Clock()
    show = progress.plain_lines(clock, brief=brief)
    for _ in range(41):
        show(Progress(phase="busy", done=0, total=1))
        clock.now += 0.5
    assert capsys.readouterr().err == "Waiting until another change of the home is done ...\n" * 3


def test_training_has_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    show = progress.plain_lines(clock)
    for step in range(1, 51):
        show(Progress(phase="train", done=step, total=50, loss=0.5))
        clock.now += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[1] == "Training 10/50, loss 0.500, about 4 s to go"


@pytest.mark.parametrize(("seconds", "words"), [(3.2, "3 s"), (150.0, "2 min"), (9000.0, "2.5 h")])
def test_times_to_go_are_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert progress._to_go(seconds) == f"about {words} to go"


def test_a_terminal_shows_each_phase_with_its_own_pace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    pace = progress.Pace(clock)
    assert pace.begins(PHOTOS[0]) and pace.seconds_to_go(PHOTOS[0]) is None
    clock.now = 50.0
    assert not pace.begins(PHOTOS[50]) and pace.seconds_to_go(PHOTOS[50]) == 50.0
    assert pace.begins(PHOTOS[0])  # a new round of the same phase
    console = Console(file=sys.stderr, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "error_console", lambda: console)
    with progress.progress_shown() as show:
        for step in PHOTOS:
            show(step)
        show(COMMIT)
    shown = capsys.readouterr().err
    assert "Saving and checking the new model" in shown and "takes about 3 s" in shown


def test_a_brief_command_announces_only_phases_that_take_a_while(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    show = progress.plain_lines(clock, brief=True)
    show(one_step("export", 0.4))
    for done in range(100):
        show(Progress(phase="features", done=done, total=100))
        clock.now += 0.3
    show(one_step("commit", 7.0))
    assert capsys.readouterr().err.splitlines() == [
        "Looking at photos 34/100, about 20 s to go",
        "Looking at photos 68/100, about 10 s to go",
        "Saving and checking the new model, takes about 7 s ...",
    ]


def has_time_to_go(step: Progress) -> bool:
    """Returns whether the time to go can be computed, from the counted steps or from the expected time."""
    return step.total > 1 or step.expected_seconds is not None


AT_ONCE = {"info", "keygen", "sign", "verify"}  # they run no network, and read at most one bundle


def test_every_command_but_the_shortest_shows_its_progress() -> None:
    shows = re.compile(r"with_progress\(|plain_lines\(|_make_base\(|_teach_new_classes\(")
    shown = {name for name, command in commands._COMMANDS.items() if shows.search(inspect.getsource(command))}
    assert commands._COMMANDS.keys() - shown == AT_ONCE


@pytest.mark.slow
def test_every_phase_of_these_verbs_has_a_time_to_go(
    permitting_base: Path, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    """Recipes that train are tested in increment/test_stopping.py, verbs that make bases in tests/base."""
    seen: list[Progress] = []
    on: Any = {"on_progress": seen.append}
    home, known = tmp_path / "home", DEMO_DATA / "test" / "base"
    forced, photos = IncrementConfig(recipe="lda", force=True), make_photos("Bag", "Shirt")
    verbs: dict[str, Callable[[], Any]] = {
        "init": lambda: lwm_edge.init_home(permitting_base, home, **on),
        "check": lambda: lwm_edge.check_photos(home, photos, **on),
        "dry run": lambda: lwm_edge.plan_increment(home, photos, forced, isolate=False, **on),
        "add-classes": lambda: lwm_edge.add_classes(home, photos, forced, isolate=False, **on),
        "add-photos": lambda: lwm_edge.add_photos(home, photos, forced, isolate=False, **on),
        "calibrate": lambda: lwm_edge.calibrate(home, photos, **on),
        "rename-class": lambda: lwm_edge.rename_class(home, "Bag", "Handbag", **on),
        "remove-class": lambda: lwm_edge.remove_class(home, "Handbag", **on),
        "undo": lambda: lwm_edge.undo(home, **on),
        "evaluate": lambda: lwm_edge.evaluate(home, known, **on),
        "predict": lambda: lwm_edge.predict(home, known / "Coat", **on),
        "export": lambda: lwm_edge.export_onnx(home, tmp_path / "file.onnx", **on),
        "report": lambda: lwm_edge.write_report(home, tmp_path / "page.html", **on),
    }
    silent, without = [], []
    for name, run in verbs.items():
        del seen[:]
        run()
        silent += [name] if not seen else []
        without += [(name, step) for step in seen if not has_time_to_go(step)]
    (home / "current" / "labels.txt").write_text("damaged")
    lwm_edge.repair_home(home, **on)
    assert seen[-1].phase == "export" and has_time_to_go(seen[-1])
    assert not silent and not without

"""Every phase says how far it has got and how long it will still take, on a terminal and in plain lines."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from lwm_edge import Progress
from lwm_edge.cli import progress

PHOTOS = [Progress(phase="photos", done=done, total=100) for done in range(100)]
COMMIT = Progress(phase="commit", done=0, total=1, expected_seconds=3.2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_say_how_far_it_is_and_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
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
    assert len(lines) == 27  # one in ten seconds, when each step takes three


def test_a_training_has_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
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
    assert pace.begins(PHOTOS[0])  # another round of it
    console = Console(file=sys.stderr, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "error_console", lambda: console)
    with progress.progress_shown() as show:
        for step in PHOTOS:
            show(step)
        show(COMMIT)
    shown = capsys.readouterr().err
    assert "Saving and checking the new model" in shown and "takes about 3 s" in shown

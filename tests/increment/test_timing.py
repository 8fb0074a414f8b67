"""The receipt says how long the owner waited since the command's start, and how long each part took."""

from __future__ import annotations

import itertools
import time

import pytest

from lwm_edge import IncrementConfig, add_classes, plan_increment
from lwm_edge.home.home import Home
from lwm_edge.increment.instant import _solving_seconds
from lwm_edge.increment.timing import START, Timer
from lwm_edge.records import Progress
from tests.support.folders import PhotoMaker


def test_parts_add_up_to_the_whole_across_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen: list[str] = []
    timer = Timer(98.0)
    report = timer.watching(lambda progress: seen.append(progress.phase))
    for seconds, phase in ((1, "photos"), (2, "photos"), (3, "train"), (4, "photos")):
        now[0] += seconds
        report(Progress(phase=phase, done=0, total=1))
    now[0] += 5
    parts = timer.parts()
    assert parts == {START: 3.0, "photos": 10.0, "train": 4.0} and seen == [
        "photos",
        "photos",
        "train",
        "photos",
    ]
    now[0] += 6  # on the way to the process that commits
    other = Timer(98.0, parts)
    other.begin("commit")
    now[0] += 7
    assert sum(other.parts().values()) == other.seconds() == 30.0
    assert other.parts()["commit"] == 7.0


def test_the_time_to_solve_the_head_counts_a_solve_for_each_fold_if_photos_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    few, many, more = (_solving_seconds(1000, photos) for photos in (0, 1000, 1001))
    assert many == 3 * few and more == 6 * few


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lda", "lwm"])
def test_the_receipt_counts_from_the_commands_start(home: Home, make_photos: PhotoMaker, recipe: str) -> None:
    photos, earlier = make_photos("Bag", count=8), time.monotonic() - 100
    config = IncrementConfig.model_validate({"recipe": recipe, "epochs": 1, "force": True})
    plan = plan_increment(home, photos, config, started=earlier)
    report = add_classes(home, photos, config, started=earlier)
    assert plan.predicted_seconds > 100 and report.plan.predicted_seconds > 100 and report.seconds > 100
    assert sum(report.seconds_by_part.values()) == pytest.approx(report.seconds, abs=0.1)
    phases = [
        "photos",
        "plan",
        "features",
        *(["train"] if recipe == "lwm" else []),
        "evaluate",
        "stage",
        "commit",
    ]
    assert set(report.seconds_by_part) == {START, *phases}

"""In a real memory cgroup, an increment completes if a plan fits the limit, and is refused if none does."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from lwm_edge import IncrementConfig, _processes, add_classes, plan_increment
from lwm_edge.errors import ResourceError
from lwm_edge.home.home import Home
from lwm_edge.increment.task import Task, set_up
from lwm_edge.increment.timing import Timer
from lwm_edge.memory import _cgroup_files, rss_bytes
from lwm_edge.records import ignore_progress
from tests.support.folders import PhotoMaker, state_of
from tests.support.samples import PLAN, QUICK

Cap = Callable[[int], None]


@pytest.fixture
def cap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cap]:
    """Puts worker processes into a cgroup with a limit in bytes."""
    around = next((limit for limit, _ in _cgroup_files() if limit.exists()), None)
    if around is None:
        pytest.skip("this process is in no memory cgroup")
    group = around.parent / f"lwm-edge-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / around.name
        limit.write_text(str(2**40))
    except OSError as error:
        pytest.skip(f"memory cgroups cannot be made here: {error}")

    def put(most_bytes: int) -> None:
        limit.write_text(str(most_bytes))
        join = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
        monkeypatch.setattr(_processes, "_START_CODE", join + _processes._START_CODE)

    yield put
    group.rmdir()


@pytest.mark.slow
def test_fifteen_percent_above_the_prediction_is_enough(
    home: Home, make_photos: PhotoMaker, cap: Cap, tmp_path: Path
) -> None:
    photos = make_photos("Bag", "Shirt", count=20)
    config = QUICK.model_copy(update={"max_memory": 2**30})
    predicted = plan_increment(home, photos, config).predicted_peak_rss_bytes
    cap(int(1.15 * predicted))
    receipt = add_classes(home, photos, config.model_copy(update={"max_memory": int(1.02 * predicted)}))
    assert receipt.footprint.peak_rss_bytes < 1.15 * predicted


@pytest.mark.slow
def test_an_increment_below_the_smallest_plan_is_refused_and_not_killed(
    home: Home, make_photos: PhotoMaker, cap: Cap
) -> None:
    photos, before = make_photos("Bag", "Shirt"), state_of(home.path)
    smallest = plan_increment(home, photos, QUICK).smallest_limit_bytes
    cap(int(0.75 * smallest))  # the cgroup does not count some 90 MiB of shared library code
    with pytest.raises(ResourceError, match="nothing was trained"):
        add_classes(home, photos, QUICK)
    assert state_of(home.path) == before


@pytest.mark.slow
def test_photos_are_read_within_the_limit_and_planned_for(home: Home, make_photos: PhotoMaker) -> None:
    """Photos are read within the limit before there is a plan; the plan has room for the most costly one."""
    photos, config = make_photos("Bag"), IncrementConfig(recipe="lda", device="cpu")

    def plan(limit: int) -> Task:
        limited = config.model_copy(update={"max_memory": limit})
        return set_up(home, photos, limited, ignore_progress, Timer(time.monotonic()))

    usual = plan(rss_bytes() + 2**30).plan.predicted_peak_rss_bytes
    Image.new("RGB", (3_000, 3_000)).save(photos / "Bag" / "costly.webp", lossless=True)
    kept = plan(rss_bytes() + 2**30)  # the prepared photo stays in memory, so it is not read again
    assert not kept.photos.skipped and kept.plan.predicted_peak_rss_bytes < usual + 100 * 2**20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lwm_edge.increment.new_photos.SHARE_FOR_CHECKED_PHOTOS", 0.0)
        taken = plan(rss_bytes() + 2**30)
    assert not taken.photos.skipped and taken.plan.predicted_peak_rss_bytes > usual + 100 * 2**20
    with pytest.MonkeyPatch.context() as patch:  # this process holds torch, which leaves no room for a plan
        patch.setattr("lwm_edge.increment.task.make_plan", lambda *_: PLAN)
        (skipped,) = plan(rss_bytes() + 100 * 2**20).photos.skipped
    assert re.search(r"takes more than (9|1[01])\d MiB .*; --max-memory \d+MiB is enough", skipped)
    with pytest.raises(ResourceError, match=r"costly\.webp; pass --max-memory"):
        plan(rss_bytes() + 30 * 2**20)

"""Under a real memory cgroup an increment that was planned completes, and one that cannot be is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lwm_edge import _processes, add_classes, plan_increment
from lwm_edge.errors import ResourceError
from lwm_edge.home.home import Home
from lwm_edge.memory import _cgroup_files
from tests.support.folders import PhotoMaker, state_of
from tests.support.samples import QUICK

Cap = Callable[[int], None]


@pytest.fixture
def cap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cap]:
    """Puts worker processes into a cgroup with a maximum of so many bytes."""
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
def test_below_the_smallest_plan_it_is_refused_and_not_killed(
    home: Home, make_photos: PhotoMaker, cap: Cap
) -> None:
    photos, before = make_photos("Bag", "Shirt"), state_of(home.path)
    smallest = plan_increment(home, photos, QUICK).smallest_limit_bytes
    cap(int(0.75 * smallest))  # libraries' code that others use too, some 90 MiB, is not counted against it
    with pytest.raises(ResourceError, match="nothing was trained"):
        add_classes(home, photos, QUICK)
    assert state_of(home.path) == before

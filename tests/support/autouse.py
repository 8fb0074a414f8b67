"""Provides the fixtures that tests with torch run with; the conftest of their folder imports them."""

from __future__ import annotations

import gc

import pytest
import torch

from lwm_edge.home import measurement

_COUNTING = {"test_auditor", "test_measurement", "test_simulation"}


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _count_only_where_counts_matter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the search for live objects, which takes seconds in a process that ran hundreds of tests.

    Tests that plant something to be found do search, and earlier objects are put aside for good. Whether an
    increment leaves nothing behind is counted in a process of its own, which has no earlier objects.
    """
    module = request.module.__name__.rpartition(".")[2]
    if module not in _COUNTING:
        monkeypatch.setattr(measurement, "count_alive", lambda *sizes: measurement.Alive([], {}))
    else:
        gc.collect()
        gc.freeze()

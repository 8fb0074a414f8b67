"""Provides fixtures for tests that use torch; they run in each folder whose conftest imports them."""

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
    """Skips the search for live objects, which takes seconds after hundreds of tests in one process.

    Only the modules in `_COUNTING` do search, because their tests check the counts. Before these tests, all
    older objects are frozen, so that the search passes over them.
    """
    module = request.module.__name__.rpartition(".")[2]
    if module not in _COUNTING:
        monkeypatch.setattr(measurement, "count_alive", lambda *sizes: measurement.Alive([], {}, {}))
    else:
        gc.collect()
        gc.freeze()

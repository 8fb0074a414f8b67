"""Two classes become one in the statistics as if all photos had been learnt under one name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.regrouping import is_solved, merge_classes

D, CAPACITY = 5, 6
counts = st.lists(st.integers(1, 30), min_size=3, max_size=4)


def _photos(seed: int, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 3 * generator.normal(size=(len(counts), D))
    return centres[labels] + generator.normal(size=(len(labels), D)), labels


def _learnt(features: np.ndarray, labels: np.ndarray) -> ClassStatistics:
    statistics = ClassStatistics.empty(CAPACITY, D)
    statistics.learn(features, labels)
    return statistics


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), counts)
def test_merged_classes_equal_all_photos_under_one_name(seed: int, counts: list[int]) -> None:
    features, labels = _photos(seed, counts)
    gone, kept = len(counts) - 1, 0
    merged = _learnt(features, labels)
    merge_classes(merged, gone, kept)
    merged.means[gone], merged.counts[gone] = 0, 0
    at_once = _learnt(features, np.where(labels == gone, kept, labels))
    for name in ("means", "covariance", "counts"):
        np.testing.assert_allclose(getattr(merged, name), getattr(at_once, name), rtol=1e-9, atol=1e-9)
    assert merged.photos == at_once.photos == sum(counts)
    logits, expected = (
        features @ weight.T + bias for weight, bias in (s.solve_head(gone) for s in (merged, at_once))
    )
    assert np.abs(logits - expected).max() <= 1e-6 * np.abs(expected).max()


def test_merging_a_class_without_photos_changes_nothing() -> None:
    statistics = _learnt(*_photos(0, [5, 7]))
    before = statistics.copy()
    merge_classes(statistics, 3, 0)
    assert np.array_equal(statistics.means, before.means)
    assert np.array_equal(statistics.covariance, before.covariance)
    empty = ClassStatistics.empty(CAPACITY, D)
    merge_classes(empty, 1, 0)
    assert not empty.counts.any() and not empty.covariance.any()


@pytest.mark.parametrize("removed", [None, 0, 2])
def test_a_solved_head_is_told_apart_from_a_trained_one(removed: int | None) -> None:
    """After a row is removed, a head still counts as solved, though solving again gives a different scale."""
    statistics = _learnt(*_photos(1, [20, 30, 10, 20]))
    weight, _ = statistics.solve_head(4)
    trained = np.random.default_rng(2).normal(size=weight.shape) * weight.std()
    if removed is not None:
        weight, trained = (np.delete(rows, removed, 0) for rows in (weight, trained))
        statistics.means[:3] = np.delete(statistics.means[:4], removed, 0)
        statistics.counts[:3] = np.delete(statistics.counts[:4], removed, 0)
    assert is_solved(weight.astype(np.float32).astype(float), statistics)
    assert not is_solved(trained, statistics) and not is_solved(-weight, statistics)
    assert not is_solved(np.zeros_like(weight), statistics)


def test_a_head_changed_where_photos_hardly_vary_does_not_count_as_solved() -> None:
    """The means computed back from the changed head are almost the same, but its answers are not."""
    generator, spread = np.random.default_rng(0), np.array([5.0, 2.0, 1.0, 0.3, 0.1])
    labels = np.repeat(np.arange(4), 400)
    centres = spread * generator.normal(size=(4, D))
    features = centres[labels] + spread * generator.normal(size=(len(labels), D))
    statistics = _learnt(features, labels)
    weight, bias = statistics.solve_head(4)
    changed = weight + np.outer([10, -10, 10, -10], [0, 0, 0, 0, 1])
    answers, others = ((features @ rows.T + bias).argmax(1) for rows in (weight, changed))
    assert (answers == others).mean() < 0.9
    assert is_solved(weight, statistics) and not is_solved(changed, statistics)


def test_heads_of_earlier_versions_count_as_solved() -> None:
    """They were solved as if no feature came from earlier blocks, which differs if there are few photos."""
    generator, labels = np.random.default_rng(4), np.repeat(np.arange(3), 4)
    features = generator.normal(size=(len(labels), 40)) * np.repeat([4.0, 1.0], 20)
    statistics = ClassStatistics.empty(3, 40, 20)
    statistics.learn(features, labels)
    now, earlier = (replace(statistics, level_values=n).solve_head(3).weight for n in (20, 0))
    assert not np.allclose(now, earlier, rtol=0.1)
    assert is_solved(now, statistics) and is_solved(earlier, statistics)
    assert not is_solved(now[::-1], statistics)

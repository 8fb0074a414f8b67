"""Photos that are nearly copies are told from different photos of one class, whatever the network's scale."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.near_copies import count_near_copies

D = 40


def known(scale: float) -> ClassStatistics:
    generator = np.random.default_rng(0)
    others = scale * generator.normal(size=(300, D))
    return ClassStatistics.empty(8, D).with_photos(others, np.repeat([0, 1, 2], 100))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_copies_are_counted_and_different_photos_are_not(scale: float) -> None:
    generator = np.random.default_rng(1)
    different = generator.normal(size=(20, D)) + 50
    copies = different[:1] + 0.05 * generator.normal(size=(14, D))
    features = scale * np.concatenate([different, copies])
    labels = np.repeat([3, 4], [20, 14])
    assert count_near_copies(features, labels, known(scale)) == {3: 0, 4: 13}


def test_many_photos_are_compared_in_parts() -> None:
    generator = np.random.default_rng(1)
    different = generator.normal(size=(300, D))
    features = np.concatenate([different, different[::-1] + 1e-3])
    labels = np.zeros(600, dtype=np.int64)
    assert count_near_copies(features, labels, known(1.0)) == {0: 300}


def test_without_statistics_nothing_is_said() -> None:
    features, labels = np.zeros((5, D)), np.zeros(5, dtype=np.int64)
    assert count_near_copies(features, labels, ClassStatistics.empty(8, D)) == {}

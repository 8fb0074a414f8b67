"""Near-copies are told apart from different photos of a class, whatever the scale of the features."""

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
    assert count_near_copies(features, labels, known(scale)) == {3: (0, 20), 4: (13, 1)}


def test_many_photos_are_compared_in_parts() -> None:
    generator = np.random.default_rng(1)
    different = generator.normal(size=(300, D))
    features = np.concatenate([different, different[::-1] + 1e-3])
    labels = np.zeros(600, dtype=np.int64)
    assert count_near_copies(features, labels, known(1.0)) == {0: (300, 300)}


def test_a_film_around_an_object_has_different_pictures() -> None:
    """Each picture is nearly the same as the one before, but distant pictures differ like any two photos."""
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)[:, None]
    film = np.zeros((60, D))
    film[:, :2] = np.sqrt(D / 2) * np.concatenate([np.cos(turn), np.sin(turn)], axis=1)
    film[:, 2:4] = np.sqrt(D / 8) * np.concatenate([np.cos(3 * turn), np.sin(3 * turn)], axis=1)
    found = count_near_copies(film, np.zeros(60, dtype=np.int64), known(1.0))[0]
    assert found.copies == 59 and found.different >= 10


def test_nothing_is_counted_without_statistics() -> None:
    features, labels = np.zeros((5, D)), np.zeros(5, dtype=np.int64)
    assert count_near_copies(features, labels, ClassStatistics.empty(8, D)) == {}

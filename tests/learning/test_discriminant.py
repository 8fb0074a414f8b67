"""The head is the linear discriminant, and heads that leave out some photos follow from the same solution."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.discriminant import Discriminant, Features, Labels, shrink
from lwm_edge.learning.unseen import judge_unseen

D, KNOWN, NEW, EACH = 40, 4, 3, 12


def drawn(photos: int) -> tuple[ClassStatistics, Features, Labels]:
    """Draws statistics of four classes, and photos of three more."""
    generator = np.random.default_rng(1)
    centres = 1.5 * generator.normal(size=(KNOWN + NEW, D))
    known_labels = np.repeat(np.arange(KNOWN), 30)
    known = ClassStatistics.empty(10, D)
    known.learn(centres[known_labels] + generator.normal(size=(len(known_labels), D)), known_labels)
    labels = np.repeat(np.arange(KNOWN, KNOWN + NEW), photos)
    return known, centres[labels] + generator.normal(size=(len(labels), D)), labels


@pytest.mark.parametrize("photos", [EACH, 40], ids=["updated solution", "many photos"])
@pytest.mark.parametrize("left_out", ["every third", "one photo", "all but one of a class"])
def test_leaving_photos_out_equals_solving_without_them(photos: int, left_out: str) -> None:
    """The head is the same, except that shrinkage, trace and temperature remain those of all photos."""
    known, features, labels = drawn(photos)
    out = np.arange(len(labels)) % 3 == 0
    if left_out != "every third":
        of_class = np.flatnonzero(labels == KNOWN + 1)
        out = np.isin(np.arange(len(labels)), of_class[: 1 if left_out == "one photo" else -1])
    of_all = known.with_photos(features, labels)
    solved = of_all.discriminant(KNOWN + NEW, features, labels)
    found = solved.without(out).head.logits(features[out])
    without = known.with_photos(features[~out], labels[~out])
    ridge = (of_all.photos + D) * (shrink(of_all.covariance, of_all.photos)).diagonal()
    ridge -= of_all.photos * of_all.covariance.diagonal()
    np.testing.assert_allclose(found, expected(without, solved, ridge, features[out]), rtol=1e-9, atol=1e-9)
    assert (found.argmax(1) == without.solve_head(KNOWN + NEW).logits(features[out]).argmax(1)).mean() > 0.95


def expected(
    statistics: ClassStatistics, of_all: Discriminant, ridge: Features, photos: Features
) -> Features:
    """Solves the head from its definition, with the shrinkage, trace and temperature of all photos."""
    classes, scatter = KNOWN + NEW, statistics.photos * statistics.covariance
    means, counts = statistics.means[:classes], statistics.counts[:classes]
    centre = means.mean(0)
    weight = (statistics.photos + D) * np.linalg.solve(scatter + np.diag(ridge), (means - centre).T).T
    lost = of_all.trace / (2 * counts)
    bias = lost - lost.mean() - np.einsum("cd,cd->c", weight, (means + centre) / 2)
    logits: Features = of_all.scale * (photos @ weight.T + bias)
    return logits


def test_a_class_of_one_photo_is_not_recognised_without_that_photo() -> None:
    known, features, labels = drawn(EACH)
    few = labels[: EACH + 1]  # a whole class, and one photo of the next
    classes = KNOWN + 2
    of_all = known.with_photos(features[: len(few)], few)
    found = judge_unseen(of_all.discriminant(classes, features[: len(few)], few), 10).logits
    assert not np.isnan(found).any() and found[-1, KNOWN + 1] == -np.inf
    assert (found[:-1].argmax(1) == KNOWN).mean() > 0.8


@pytest.mark.parametrize("photos", [EACH, 40])
def test_five_folds_leave_each_photo_out_once(photos: int) -> None:
    known, features, labels = drawn(photos)
    solved = known.with_photos(features, labels).discriminant(KNOWN + NEW, features, labels)
    before: list[int] = []
    logits = judge_unseen(solved, 10, lambda: before.append(1)).logits
    assert len(before) == 5 and logits.shape == (len(labels), KNOWN + NEW)
    of_class = np.arange(len(labels)) % photos
    first = of_class % 5 == 0
    np.testing.assert_allclose(logits[first], solved.without(first).head.logits(features[first]))
    assert (logits.argmax(1) == labels).mean() > 0.9


def test_learnt_photos_are_recognised_more_often_than_photos_left_out() -> None:
    generator = np.random.default_rng(2)
    noise, labels = generator.normal(size=(60, D)), np.repeat([0, 1, 2], 20)
    solved = ClassStatistics.empty(3, D).with_photos(noise, labels).discriminant(3, noise, labels)
    assert (solved.head.logits(noise).argmax(1) == labels).mean() > 0.7
    assert (judge_unseen(solved, 3).logits.argmax(1) == labels).mean() < 0.55


def test_features_of_earlier_blocks_do_not_drown_out_the_others() -> None:
    """They vary more widely; with few photos, a head that reads them must not be worse for that."""
    generator = np.random.default_rng(3)
    classes, few, telling, idle = 10, 5, 100, 200
    centres = generator.normal(size=(classes, telling))

    def photos(each: int) -> tuple[Features, Labels]:
        labels = np.repeat(np.arange(classes), each)
        told = centres[labels] + generator.normal(size=(len(labels), telling))
        return np.concatenate([4 * generator.normal(size=(len(labels), idle)), told], 1), labels

    (features, labels), (others, truth) = photos(few), photos(100)

    def accuracy(first: int) -> float:
        known = ClassStatistics.empty(classes, idle + telling - first, idle - first)
        known.learn(features[:, first:], labels)
        return float((known.solve_head(classes).logits(others[:, first:]).argmax(1) == truth).mean())

    assert accuracy(idle) > 0.9  # without earlier blocks
    assert accuracy(0) > 0.9


@pytest.mark.parametrize("each", [2, 5])
def test_photos_without_a_class_are_not_recognised_when_they_are_left_out(each: int) -> None:
    """What shrinks the covariance follows from all photos, but must not give away their classes."""
    right = []
    for seed in range(10):
        generator, labels = np.random.default_rng(seed), np.repeat(np.arange(10), each)
        features = generator.normal(size=(len(labels), 600)) * np.repeat([4.0, 1.0], 300)
        known = ClassStatistics.empty(10, 600, 300)
        known.learn(features, labels)
        logits = judge_unseen(known.discriminant(10, features, labels), 10).logits
        right.append((logits.argmax(1) == labels).mean())
    assert np.mean(right) < 0.14  # chance is 0.1

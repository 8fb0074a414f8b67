"""Class statistics are learnt from photos, give a head, and follow a backbone that training changes."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.discriminant import shrink, solve_shrunk, times_shrunk
from lwm_edge.learning.feature_map import FeatureMap, leverage

GENERATOR = np.random.default_rng(0)
SPREAD = np.diag([3.0, 1.0, 0.3])


def _photos(centres: np.ndarray, count: int, first_label: int = 0) -> tuple[np.ndarray, np.ndarray]:
    noise = GENERATOR.normal(size=(len(centres), count, 3)) @ SPREAD
    labels = np.repeat(np.arange(first_label, first_label + len(centres)), count)
    return (centres[:, None] + noise).reshape(-1, 3), labels


def test_learning_classes_in_turn_equals_learning_all_at_once() -> None:
    features, labels = _photos(GENERATOR.normal(size=(4, 3)), 20)
    whole, parts = ClassStatistics.empty(6, 3), ClassStatistics.empty(6, 3)
    whole.learn(features, labels)
    for label in range(4):
        parts.learn(features[labels == label], labels[labels == label])
    np.testing.assert_allclose(parts.means, whole.means)
    np.testing.assert_allclose(parts.covariance, whole.covariance)
    assert parts.photos == whole.photos == 80 and not whole.means[4:].any()


def test_statistics_of_parts_add_up_to_those_of_all() -> None:
    features, labels = _photos(GENERATOR.normal(size=(4, 3)), 20)
    empty, part = ClassStatistics.empty(6, 3), GENERATOR.integers(0, 3, len(labels))
    part[labels == 3] = 1  # only one part has photos of this class
    parts = [empty.with_photos(features[part == n], labels[part == n]) for n in range(3)]
    whole, added = empty.with_photos(features, labels), parts[0].added(parts[1]).added(parts[2]).added(empty)
    np.testing.assert_allclose(added.means, whole.means, atol=1e-12)
    np.testing.assert_allclose(added.covariance, whole.covariance, atol=1e-12)
    assert added.photos == whole.photos == 80 and added.counts.tolist() == whole.counts.tolist()
    nothing = empty.added(empty)
    assert nothing.photos == 0 and not nothing.covariance.any()


def test_statistics_agree_with_values_computed_by_hand() -> None:
    statistics = ClassStatistics.empty(2, 2)
    statistics.learn(np.array([[0.0, 1.0], [2.0, 1.0], [5.0, 5.0]]), np.array([0, 0, 1]))
    assert statistics.means.tolist() == [[1, 1], [5, 5]]
    np.testing.assert_allclose(statistics.covariance, np.array([[2 / 3, 0], [0, 0]]))


def test_the_solved_head_is_fishers_discriminant() -> None:
    """With two classes, the weights differ along the inverse covariance times the difference of the means."""
    statistics = ClassStatistics.empty(2, 3)
    statistics.learn(*_photos(np.array([[0.0, 0, 0], [1.0, 1, 1]]), 5000))
    weight, bias = statistics.solve_head(2)
    fisher = np.linalg.solve(shrink(statistics.covariance, 10_000), statistics.means[1] - statistics.means[0])
    ratio = (weight[1] - weight[0]) / fisher
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    at_middle = weight @ statistics.means.mean(0) + bias
    assert ratio[0] > 0 and at_middle[0] == pytest.approx(at_middle[1])


def test_a_logit_is_a_log_likelihood_ratio_at_a_temperature() -> None:
    statistics = ClassStatistics.empty(3, 3)
    statistics.learn(*_photos(GENERATOR.normal(size=(3, 3)), 50))
    weight, bias = statistics.solve_head(3)
    inverse = np.linalg.inv(shrink(statistics.covariance, 150))
    x, centre = np.array([0.3, -1.0, 2.0]), statistics.means.mean(0)

    def log_likelihood(mean: np.ndarray) -> float:
        return float(-(x - mean) @ inverse @ (x - mean) / 2)

    expected = [log_likelihood(mean) - log_likelihood(centre) for mean in statistics.means]
    temperature = expected / (weight @ x + bias)
    np.testing.assert_allclose(temperature, temperature[0], rtol=1e-9)
    own = [logits[label] for label, logits in enumerate(statistics.means @ weight.T + bias)]
    assert np.mean(own) == pytest.approx(5)


@pytest.mark.parametrize("photos", [1, 5, 10_000])
def test_a_covariance_of_few_photos_is_shrunk_more(photos: int) -> None:
    covariance = np.diag([4.0, 1.0, 1.0])
    shrunk = shrink(covariance, photos)
    assert np.trace(shrunk) == pytest.approx(6)
    assert shrunk[0, 0] == pytest.approx((photos * 4 + 3 * 2) / (photos + 3))


@pytest.mark.parametrize("photos", [1, 2, 3, 10_000])
def test_with_few_photos_values_of_earlier_blocks_keep_their_own_variance(photos: int) -> None:
    covariance = np.diag([5.0, 3.0, 1.0])  # the first two come from earlier blocks
    shrunk = shrink(covariance, photos, 2)
    assert np.trace(shrunk) == pytest.approx(9)
    equal = min(photos / 3, 1)  # this part of the imagined photos' variance is the same in every direction
    for value, own in ((0, 4), (1, 4), (2, 1)):
        prior = equal * 3 + (1 - equal) * own
        assert shrunk[value, value] == pytest.approx(
            (photos * covariance[value, value] + 3 * prior) / (photos + 3)
        )


@pytest.mark.parametrize("photos", [0.0, 1.0, 300.0])
def test_the_shrunk_matrix_is_multiplied_and_solved_without_being_made(photos: float) -> None:
    """The matrix would take as much memory as the covariance, which stays unchanged to the last bit."""
    spread = GENERATOR.normal(size=(9, 4))
    covariance, rows = spread.T @ spread, GENERATOR.normal(size=(3, 4))
    before, shrunk = covariance.copy(), shrink(covariance, photos, 2)
    np.testing.assert_allclose(times_shrunk(rows, covariance, photos, 2), rows @ shrunk, rtol=1e-12)
    expected = rows @ np.linalg.inv(shrunk)
    np.testing.assert_allclose(solve_shrunk(covariance, photos, rows, 2), expected, rtol=1e-9)
    assert np.array_equal(covariance, before)


def test_a_covariance_that_cannot_be_solved_stays_unchanged() -> None:
    covariance = np.array([[2.0, 4], [4, 2]])  # its rows are equal once it is shrunk
    before = covariance.copy()
    with pytest.raises(np.linalg.LinAlgError):
        solve_shrunk(covariance, 2.0, np.ones((1, 2)))
    assert np.array_equal(covariance, before)


def test_a_linear_drift_is_followed() -> None:
    """The means of old classes, whose photos are gone, end up where their features would be now."""
    matrix = np.eye(3) + 0.3 * GENERATOR.normal(size=(3, 3))
    offset = np.array([1.0, -2.0, 0.5])
    old_features, old_labels = _photos(GENERATOR.normal(size=(2, 3)) * 3, 200)
    new_features, _ = _photos(GENERATOR.normal(size=(2, 3)) * 3, 2000)
    statistics = ClassStatistics.empty(4, 3)
    statistics.learn(old_features, old_labels)
    statistics.follow_drift(FeatureMap.fit(new_features, new_features @ matrix.T + offset), 2)

    moved = ClassStatistics.empty(4, 3)
    moved.learn(old_features @ matrix.T + offset, old_labels)
    np.testing.assert_allclose(statistics.means, moved.means, atol=0.02)
    np.testing.assert_allclose(statistics.covariance, moved.covariance, rtol=0.02, atol=0.02)
    assert not statistics.means[2:].any()


def test_directions_that_no_photo_shows_stay_as_they_are() -> None:
    before = np.zeros((10, 3))
    before[:, 0] = np.arange(10)
    after = before * [2.0, 1, 1]
    change = FeatureMap.fit(before, after)
    np.testing.assert_allclose(change.matrix[1:], np.eye(3)[1:], atol=1e-9)
    assert change.matrix[0, 0] == pytest.approx(2, abs=0.02)


def test_leverage_tells_how_wrong_the_map_is_at_a_point() -> None:
    """The photos spread widely in one direction and hardly in the other."""
    random = np.random.default_rng(5)
    before = random.normal(size=(400, 2)) * [3, 0.3] + [1, 2]
    points = before.mean(0) + np.array([[0, 0], [3, 0], [0, 3]])
    errors = []
    for _ in range(400):
        change = FeatureMap.fit(before, before + random.normal(size=before.shape))
        errors.append(points @ change.matrix.T + change.offset - points)
    expected = leverage(before, points)
    assert expected[0] == pytest.approx(0) and expected[2] > 50 * expected[1]
    np.testing.assert_allclose(np.square(errors).mean((0, 2)), expected + 1 / len(before), rtol=0.2)


def test_statistics_become_tensors_and_can_be_read_back() -> None:
    statistics = ClassStatistics.empty(3, 3)
    statistics.learn(*_photos(np.eye(3), 5))
    again = ClassStatistics.from_arrays(statistics.to_arrays(), statistics.level_values)
    np.testing.assert_allclose(again.means, statistics.means, rtol=1e-6)
    assert again.photos == 15 and again.covariance.shape == (3, 3)


@pytest.mark.parametrize("classes", [2, 12])
def test_the_estimated_accuracy_matches_photos_of_the_same_spread(classes: int) -> None:
    """There may be fewer classes than features, or more."""
    centres = 3 * np.random.default_rng(1).normal(size=(classes, 3))
    statistics = ClassStatistics.empty(16, 3)
    statistics.learn(*_photos(centres, 500))
    weight, bias = statistics.solve_head(classes)
    photos, labels = _photos(centres, 2000)
    right = float(np.mean((photos @ weight.T + bias).argmax(1) == labels))
    assert statistics.estimate_accuracy(weight, bias, classes).mean() == pytest.approx(right, abs=0.02)
    (of_first,) = statistics.estimate_accuracy(weight, bias, 1)
    assert of_first == pytest.approx(np.mean((photos @ weight.T + bias).argmax(1)[:2000] == 0), abs=0.04)


def test_the_spread_that_is_found_makes_the_estimate_match_the_measurement() -> None:
    """Photos that the network learnt from lie closer together: here, their variance is a quarter."""
    centres = 2 * np.random.default_rng(1).normal(size=(5, 3))
    statistics = ClassStatistics.empty(16, 3)
    close, labels = _photos(centres, 500)
    statistics.learn(centres[labels] + (close - centres[labels]) / 2, labels)
    weight, bias = statistics.solve_head(5)
    photos, labels = _photos(centres, 4000)
    measured = float(np.mean((photos @ weight.T + bias).argmax(1) == labels))
    assert statistics.estimate_accuracy(weight, bias, 5).mean() > measured + 0.03
    spread = statistics.find_spread(weight, bias, 5, np.ones(5, bool), measured)
    assert spread == pytest.approx(4, rel=0.15)
    assert statistics.estimate_accuracy(weight, bias, 5, spread).mean() == pytest.approx(measured, abs=0.01)


def test_classes_with_few_photos_do_not_lose_to_classes_with_many() -> None:
    """In many dimensions, the mean of a few photos is far from the true mean; the bias makes up for that."""
    d, chance = 120, np.random.default_rng(7)
    counts = {0: 400, 1: 400, 2: 4, 3: 4}
    centres = chance.normal(size=(4, d)) * 0.35
    labels = np.repeat(list(counts), list(counts.values()))
    test_labels = np.repeat(np.arange(4), 300)
    features, test = (centres[y] + chance.normal(size=(len(y), d)) for y in (labels, test_labels))
    statistics = ClassStatistics.empty(4, d)
    statistics.learn(features, labels)

    def recall(learnt: ClassStatistics) -> np.ndarray:
        weight, bias = learnt.solve_head(4)
        right = (test @ weight.T + bias).argmax(1) == test_labels
        return np.array([right[test_labels == label].mean() for label in range(4)])

    as_if_equal = statistics.copy()
    as_if_equal.counts[:] = 100
    uncorrected, corrected = recall(as_if_equal), recall(statistics)
    assert corrected[2:].mean() > uncorrected[2:].mean() + 0.15
    assert corrected.mean() > uncorrected.mean() + 0.02 and np.ptp(corrected) < np.ptp(uncorrected)


def test_with_equal_numbers_of_photos_the_bias_needs_no_correction() -> None:
    statistics = ClassStatistics.empty(3, 3)
    statistics.learn(*_photos(GENERATOR.normal(size=(3, 3)), 50))
    more = statistics.copy()
    more.counts[:] = 7
    for ours, theirs in zip(statistics.solve_head(3), more.solve_head(3), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_class_that_is_learnt_again_has_the_mean_of_the_later_photos() -> None:
    first, labels = _photos(GENERATOR.normal(size=(2, 3)), 20)
    later, later_labels = _photos(GENERATOR.normal(size=(2, 3)), 10)
    statistics = ClassStatistics.empty(2, 3).with_photos(first, labels)
    again = statistics.with_photos(later, later_labels)
    for label in range(2):
        np.testing.assert_allclose(again.means[label], later[later_labels == label].mean(0))
    assert again.counts.tolist() == [10, 10] and again.photos == 60 and statistics.photos == 40
    scatter = sum(  # each group is centred on its own mean
        (f[y == label] - f[y == label].mean(0)).T @ (f[y == label] - f[y == label].mean(0))
        for f, y in ((first, labels), (later, later_labels))
        for label in range(2)
    )
    np.testing.assert_allclose(again.covariance, scatter / 60)


def test_further_photos_are_learnt_as_if_together_with_the_earlier_ones() -> None:
    features, labels = _photos(GENERATOR.normal(size=(3, 3)), 30)
    whole = ClassStatistics.empty(4, 3).with_photos(features, labels)
    first = np.arange(len(labels)) % 3 > 0
    parts = ClassStatistics.empty(4, 3).with_photos(features[first], labels[first])
    parts.learn_more(features[~first], labels[~first])
    parts.learn_more(features[:0], labels[:0])
    for name in ("means", "covariance", "counts"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-12)
    assert parts.photos == whole.photos

"""Increments and `calibrate` keep the score for unknown objects calibrated, in a form of constant length."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge import (
    Classifier,
    IncrementConfig,
    add_classes,
    audit,
    calibrate,
    info,
    predict,
    remove_class,
    verify,
)
from lwm_edge.cli.display import threshold
from lwm_edge.demo import DEMO_DATA
from lwm_edge.errors import PhotosError
from lwm_edge.home.home import Home
from lwm_edge.increment.calibrate import _warnings
from lwm_edge.increment.judgement import warn_about_unknown
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.unknown import score_tensors
from lwm_edge.learning.unseen import judge_unseen
from lwm_edge.model import unknown
from lwm_edge.model.tensors import AXES, BINS, HISTOGRAM, SCORE
from lwm_edge.model.unknown import count_scores, known_scores, lowest_kept
from tests.support.folders import Keys, PhotoMaker, state_of
from tests.support.samples import QUICK

LDA = IncrementConfig(recipe="lda", device="cpu")
UNSEEN = DEMO_DATA / "test" / "base"


def test_the_score_is_the_distance_from_all_classes_together_less_that_from_the_nearest_class() -> None:
    generator = np.random.default_rng(0)
    statistics, labels = ClassStatistics.empty(8, 20), np.repeat([0, 1, 2, 3], 30)
    features = generator.normal(size=(120, 20)) + 3 * generator.normal(size=(4, 20))[labels]
    statistics.learn(features, labels)
    tensors, photos = score_tensors(statistics, 4), generator.normal(size=(50, 20))
    d, means = 20, statistics.means[:4]
    within = statistics.covariance * 120 + d * np.trace(statistics.covariance) / d * np.eye(d)
    within /= 120 + d
    centred = means - means.mean(0)
    everything = np.linalg.inv(within + centred.T @ centred / 4)
    apart = photos - means.mean(0)
    nearest = [
        np.einsum("md,de,me->m", photos - mean, np.linalg.inv(within), photos - mean) for mean in means
    ]
    expected = np.einsum("md,de,me->m", apart, everything, apart) - np.min(nearest, 0)
    np.testing.assert_allclose(known_scores(photos, tensors, 4), expected, rtol=1e-3, atol=1e-2)
    assert {name: array.shape for name, array in tensors.items()} == {
        name: array.shape for name, array in score_tensors(statistics, 3).items()
    }


def test_a_lack_of_photos_is_told_from_photos_that_look_like_no_class(home: Home) -> None:
    manifest, histogram = home.open_bundle().manifest, np.zeros((8, BINS), np.int32)
    histogram[:6, 60] = 3
    too_few = unknown.calibrate(histogram)
    assert "at least 19 photos of known classes (so far: 18)" in _warnings(too_few, manifest)[0]
    assert threshold(too_few) == "no threshold yet, with only 18 photos of 6 classes"
    histogram[:, 0] = 20
    too_low = unknown.calibrate(histogram)
    assert too_low.threshold(0.95) is None
    (warning,) = [line for line in _warnings(too_low, manifest) if "threshold:" in line]
    assert "look like none of the classes" in warning and "at least" not in warning
    assert threshold(too_low) == (
        "no threshold, as too many of the 178 photos of 8 classes look like none of the classes"
    )


def test_one_class_alone_has_no_axis_and_all_photos_score_alike() -> None:
    statistics = ClassStatistics.empty(4, 6)
    statistics.learn(np.random.default_rng(0).normal(size=(10, 6)), np.zeros(10, np.int64))
    tensors = score_tensors(statistics, 1)
    assert not tensors[AXES].any()
    assert not known_scores(np.random.default_rng(1).normal(size=(5, 6)), tensors, 1).any()


def test_an_increment_counts_each_photo_by_a_score_made_without_it(
    home: Home, make_photos: PhotoMaker
) -> None:
    before = home.open_bundle()
    assert info(home).unknown.photos == 0
    add_classes(home, make_photos("Bag", "Sneaker", count=20), LDA, isolate=False)
    after = home.open_bundle()
    arrays = after.arrays()
    assert arrays[HISTOGRAM].sum(1)[:8].tolist() == [0] * 6 + [20, 20]
    report = info(home)
    assert (report.unknown.photos, report.unknown.classes) == (40, 2)
    assert report.unknown.threshold(0.95) is not None and report.unknown.threshold(0.99) is None
    assert set(report.kept_by_class) == {"Bag", "Sneaker"}
    assert after.path.stat().st_size == before.manifest.bundle_bytes
    assert audit(home).passed
    rebuilt = score_tensors(ClassStatistics.from_bundle(after), 8)
    for name in SCORE:
        np.testing.assert_allclose(arrays[name], rebuilt[name], rtol=1e-2, atol=1e-2)


def test_the_next_increment_keeps_the_counts_of_classes_whose_photos_are_gone(
    home: Home, make_photos: PhotoMaker
) -> None:
    add_classes(home, make_photos("Bag", count=20), LDA, isolate=False)
    first = home.open_bundle().arrays()[HISTOGRAM]
    add_classes(home, make_photos("Sneaker", count=12, folder="more"), LDA, isolate=False)
    second = home.open_bundle().arrays()[HISTOGRAM]
    np.testing.assert_array_equal(first[:7], second[:7])
    assert second[7].sum() == 12
    assert set(info(home).kept_by_class) == {"Bag"}  # too few photos of Sneaker to say anything about it


def test_a_trained_network_forgets_how_old_classes_scored(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag", count=20), LDA, isolate=False)
    add_classes(home, make_photos("Sneaker", count=20, folder="more"), QUICK, isolate=False)
    counts = home.open_bundle().arrays()[HISTOGRAM].sum(1)[:8]
    assert counts.tolist() == [0] * 7 + [4]  # four held-back photos
    assert audit(home).passed


def test_calibrating_replaces_the_counts_of_the_given_classes(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag", count=20), LDA, isolate=False)
    before, tensors_before = home.open_bundle(), home.open_bundle().arrays()
    report = calibrate(home, UNSEEN)
    after = home.open_bundle()
    arrays = after.arrays()
    assert report.photos == 300 and len(report.calibrated_classes) == 6 and report.kept_before is not None
    assert arrays[HISTOGRAM].sum(1)[:7].tolist() == [50] * 6 + [20]
    for name, tensor in tensors_before.items():
        assert name == HISTOGRAM or np.array_equal(arrays[name], tensor)
    assert after.manifest.increment_count == 2
    assert after.manifest.parent_digest == before.manifest.model_digest
    assert after.path.stat().st_size == before.manifest.bundle_bytes
    photos = sorted(UNSEEN.glob("*/*.png"))
    unknown = [bool(p.unknown) for p in predict(home, photos).predictions]
    assert 0.93 <= 1 - np.mean(unknown) <= 0.99  # these photos are among those used for the calibration
    more = [bool(p.unknown) for p in predict(home, photos, keep=0.8).predictions]
    assert np.mean(more) > np.mean(unknown)
    assert audit(home).passed


def test_a_calibration_is_signed_and_recorded(trusting_home: Home, keys: Keys) -> None:
    calibrate(trusting_home, UNSEEN, sign_with=keys.device_key)
    report = verify(trusting_home, device_key=keys.device_pub)
    assert report.passed and trusting_home.open_bundle().manifest.increment_count == 1


def test_folders_of_unknown_classes_are_refused_and_change_nothing(
    home: Home, make_photos: PhotoMaker
) -> None:
    before = state_of(home.path)
    with pytest.raises(PhotosError, match="not classes of the model") as refused:
        calibrate(home, make_photos("Bag", "Coat"))
    assert refused.value.problems == ("Bag",)
    assert state_of(home.path) == before


def test_too_few_photos_give_no_threshold_and_say_so(home: Home, make_photos: PhotoMaker) -> None:
    report = calibrate(home, make_photos("Coat", count=18))
    assert report.calibration.threshold(0.95) is None
    assert any(
        "keeps 95% of photos needs at least 19 photos of known classes (so far: 18)" in warning
        for warning in report.warnings
    )
    assert any("of 5 of the 6 classes" in warning for warning in report.warnings)
    assert Classifier(home.onnx).calibration == report.calibration


def test_removing_a_class_removes_its_counts_alone(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag", "Sneaker", count=20), LDA, isolate=False)
    before = home.open_bundle().arrays()[HISTOGRAM]
    remove_class(home, "Bag")
    after = home.open_bundle().arrays()[HISTOGRAM]
    np.testing.assert_array_equal(after[6], before[7])
    assert not after[7:].any() and audit(home).passed


def test_an_owner_is_told_of_a_class_that_would_often_be_called_unknown() -> None:
    kept = {"Bag": (10, 20), "Coat": (1, 20), "Sneaker": (19, 20)}
    (warning,) = warn_about_unknown(kept, ("Bag", "Sneaker"))
    assert warning.startswith("10 of 20 photos of Bag would be called unknown")


@pytest.mark.slow
def test_photos_split_at_random_are_kept_as_often_as_stated() -> None:
    """A threshold that was calibrated in folds also suits photos that were never seen."""
    kept = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        centres, labels = 2 * generator.normal(size=(10, 40)), np.repeat(np.arange(10), 40)
        learnt, others = (generator.normal(size=(400, 40)) + centres[labels] for _ in range(2))
        nothing = ClassStatistics.empty(10, 40)
        statistics = nothing.with_photos(learnt, labels)
        scores = judge_unseen(statistics.discriminant(10, learnt, labels), 10).scores
        tensors = score_tensors(statistics, 10)
        lowest = lowest_kept(count_scores(scores, labels, 10), 0.95)
        assert lowest is not None
        kept.append((known_scores(others, tensors, 10) >= lowest).mean())
    assert 0.935 <= np.mean(kept) <= 0.975

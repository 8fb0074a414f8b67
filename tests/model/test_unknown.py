"""A threshold keeps at least the stated share of known photos; a calibration always has the same length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lwm_edge import Classifier
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import ConfigError
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.onnx.graph import fill_graph
from lwm_edge.model.onnx.parity import generated_images
from lwm_edge.model.onnx.tracing import trace_graph
from lwm_edge.model.tensors import BINS, HISTOGRAM, ONNX_GRAPH
from lwm_edge.model.terms import SHARES, Activation
from lwm_edge.model.unknown import (
    EDGES,
    METADATA_LENGTH,
    Calibration,
    calibrate,
    count_scores,
    fewest_photos,
    kept_by_class,
    lowest_kept,
    to_metadata,
)


def of_one_class(scores: np.ndarray) -> np.ndarray:
    return count_scores(scores, np.zeros(len(scores), np.int64), 1)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("photos", ["fewest", 150, 1000])
def test_the_threshold_keeps_at_least_the_share_of_exchangeable_photos(
    share: float, photos: int | str
) -> None:
    generator, kept = np.random.default_rng(0), []
    count = fewest_photos(share) if isinstance(photos, str) else photos
    for _ in range(400):
        scores = generator.normal(20, 15, count + 100)
        score = lowest_kept(of_one_class(scores[:count]), share)
        assert score is not None
        kept.append((scores[count:] >= score).mean())
    error = np.std(kept) / np.sqrt(len(kept))
    assert share - 3 * error <= np.mean(kept) <= share + 1 / (count + 1) + 0.02 + 3 * error


def test_one_photo_fewer_gives_no_threshold() -> None:
    assert [fewest_photos(share) for share in SHARES] == [4, 9, 19, 49, 99]
    for share in SHARES:
        scores = np.ones(fewest_photos(share))
        assert lowest_kept(of_one_class(scores), share) == 0.8053  # the edge below 1
        assert lowest_kept(of_one_class(scores[1:]), share) is None


def test_there_is_no_threshold_if_scores_lie_below_all_edges() -> None:
    assert lowest_kept(of_one_class(np.full(50, EDGES[0] - 1)), 0.95) is None
    assert lowest_kept(of_one_class(np.full(50, EDGES[-1] + 1e6)), 0.95) == EDGES[-1]


def test_a_score_on_an_edge_is_kept_by_the_threshold_that_it_gives() -> None:
    for edge in EDGES:
        assert lowest_kept(of_one_class(np.full(19, edge)), 0.95) == edge


def test_histograms_of_parts_add_up_to_that_of_the_whole() -> None:
    generator = np.random.default_rng(1)
    scores, labels = generator.normal(size=300), generator.integers(0, 4, 300)
    parts = [count_scores(scores[part], labels[part], 8) for part in np.split(np.arange(300), 3)]
    whole = count_scores(scores, labels, 8)
    np.testing.assert_array_equal(sum(parts), whole)
    assert whole.shape == (8, BINS) and whole.dtype == np.int32
    assert whole.sum(1).tolist() == np.bincount(labels, minlength=8).tolist()


def test_a_class_with_too_few_photos_for_its_own_threshold_is_left_out() -> None:
    labels = np.repeat([0, 1, 2], [19, 18, 40])
    scores = np.where(labels == 2, 5.0, 1.0)
    scores[:3] = -5, -5, -3
    histogram = count_scores(scores, labels, 4)
    assert kept_by_class(histogram, ("a", "b", "c")) == {"a": (17, 19), "c": (40, 40)}
    assert kept_by_class(histogram[3:], ("d",)) == {}


def test_the_metadata_always_has_the_same_length_and_can_be_read_back() -> None:
    for histogram in (np.zeros((3, BINS), np.int32), np.full((256, BINS), 2**31 - 1, np.int32)):
        calibration = calibrate(histogram)
        text = to_metadata(calibration)
        assert len(text) == METADATA_LENGTH
        assert Calibration.model_validate_json(text) == calibration
        assert list(json.loads(text)["thresholds"]) == ["0.8", "0.9", "0.95", "0.98", "0.99"]


def test_a_photo_below_the_threshold_is_unknown(tmp_path: Path) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    arrays = bundle.arrays()
    photos = sorted((DEMO_DATA / "test").glob("*/*/000.png"))
    (not_calibrated,) = {p.unknown for p in Classifier(fill_graph(arrays, bundle.manifest)).classify(photos)}
    assert not_calibrated is None
    scores = [p.known_score for p in Classifier(fill_graph(arrays, bundle.manifest)).classify(photos)]
    middle = int(np.searchsorted(EDGES, np.median(np.array(scores, float))))
    arrays[HISTOGRAM][0, middle] = 100
    found = Classifier(fill_graph(arrays, bundle.manifest)).classify([*photos, tmp_path / "none.png"])
    below = [score is not None and score < EDGES[middle - 1] for score in scores]
    assert [p.unknown for p in found[:-1]] == below
    assert {p.unknown for p in found[:-1]} == {True, False}
    assert (found[-1].unknown, found[-1].known_score) == (None, None)


def test_a_share_that_was_not_calibrated_is_refused() -> None:
    bundle = open_bundle(BASE_BUNDLE)
    classifier = Classifier(fill_graph(bundle.arrays(), bundle.manifest))
    with pytest.raises(
        ConfigError, match=r"known photos to keep must be 0.8, 0.9, 0.95, 0.98 or 0.99, not 0.5"
    ):
        classifier.classify([], keep=0.5)


@pytest.mark.slow
def test_softmax_and_sigmoid_outputs_have_the_same_score() -> None:
    """The score reads only the features."""
    bundle = open_bundle(BASE_BUNDLE)
    scores: list[np.ndarray] = []
    probabilities: list[np.ndarray] = []
    images = generated_images(bundle.manifest.preprocessing.image_size)
    activations: tuple[Activation, ...] = ("sigmoid", "softmax")
    for activation in activations:
        graph = np.frombuffer(trace_graph(load_network(bundle), activation), np.uint8)
        manifest = bundle.manifest.model_copy(update={"activation": activation})
        outputs = Classifier(fill_graph({**bundle.arrays(), ONNX_GRAPH: graph}, manifest)).outputs(images)
        scores.append(outputs.unknown)
        probabilities.append(outputs.probabilities)
    assert np.array_equal(scores[0], scores[1]) and not np.allclose(probabilities[0], probabilities[1])

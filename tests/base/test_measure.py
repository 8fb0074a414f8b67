"""Photos that a network never saw decide what its statistics are made from, and which head is shipped."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge.base.examine import vendor_warnings
from lwm_edge.base.measure import Settled, measured_tensors, settle
from lwm_edge.base.reports import StatisticsReport
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.running import Observation
from lwm_edge.model.evaluation import EvaluationReport, evaluate_predictions
from lwm_edge.model.tensors import CONFUSIONS, HISTOGRAM, MEASURED, RIGHT, RIGHT_SOLVED, TOTAL
from lwm_edge.model.unknown import lowest_kept

CLASSES, D = 4, 12
EMPTY = ClassStatistics.empty(6, D)


def photos(centres: np.ndarray, count: int, spread: float, seed: int) -> tuple[Observation, np.ndarray]:
    labels = np.repeat(np.arange(CLASSES), count)
    noise = np.random.default_rng(seed).normal(size=(len(labels), D)) * spread
    return Observation(centres[labels] + noise), labels


def known(learnt: tuple[Observation, np.ndarray]) -> ClassStatistics:
    observed, labels = learnt
    return EMPTY.with_photos(observed.head_inputs, labels)


def centres(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(CLASSES, D)) * scale


def logits_that_are_right(labels: np.ndarray, share: float) -> np.ndarray:
    right = np.random.default_rng(3).random(len(labels)) < share
    logits = np.zeros((len(labels), CLASSES))
    logits[np.arange(len(labels)), np.where(right, labels, (labels + 1) % CLASSES)] = 1
    return logits


def test_all_photos_are_used_if_unseen_ones_resemble_the_learnt_ones() -> None:
    where = centres(0, 2.0)
    learnt, unseen = photos(where, 40, 1.0, 1), photos(where, 10, 1.0, 2)
    settled = settle(known(learnt), *unseen, logits_that_are_right(unseen[1], 1.0), 1.0, CLASSES)
    assert settled.report.photos == "all" and settled.report.head == "trained"
    assert settled.statistics.counts[:CLASSES].tolist() == [50] * CLASSES
    assert settled.report.accuracy["trained"] == 1
    assert (settled.predictions == unseen[1]).all()
    assert (settled.solved.argmax(1) == unseen[1]).mean() == pytest.approx(settled.report.accuracy["all"])


def test_unseen_photos_give_the_means_if_they_differ_from_the_learnt_ones() -> None:
    learnt, unseen = photos(centres(0, 2.0), 40, 0.1, 1), photos(centres(5, 2.0), 10, 1.0, 2)
    settled = settle(known(learnt), *unseen, logits_that_are_right(unseen[1], 0.4), 1.0, CLASSES)
    assert settled.report.photos == "unseen" and settled.report.head == "solved"
    assert settled.report.accuracy["unseen"] > 0.8 > settled.report.accuracy["given"]
    for label in range(CLASSES):
        np.testing.assert_allclose(
            settled.statistics.means[label], unseen[0].head_inputs[unseen[1] == label].mean(0)
        )
    assert settled.statistics.photos == 50 * CLASSES  # the covariance comes from all photos
    share = (settled.predictions == unseen[1]).mean()
    assert share == pytest.approx(settled.report.accuracy["unseen"])


def test_learnt_photos_do_not_give_the_means_even_where_they_do_no_harm() -> None:
    where = centres(0, 2.0)
    learnt, unseen = photos(where, 40, 1.0, 1), photos(where, 10, 1.0, 2)
    settled = settle(known(learnt), *unseen, logits_that_are_right(unseen[1], 0.7), 1.0, CLASSES)
    assert settled.report.photos == "unseen" and settled.statistics.counts[0] == 10


@pytest.mark.parametrize(("count", "choices"), [(1, {"all"}), (4, {"all", "unseen"})])
def test_a_few_unseen_photos_of_a_class_do_not_give_its_mean(count: int, choices: set[str]) -> None:
    """A class has no mean while its only unseen photo is left out, so this photo is never recognised."""
    where = centres(0, 2.0)
    learnt, unseen = photos(where, 40, 1.0, 1), photos(where, count, 1.0, 2)
    settled = settle(known(learnt), *unseen, logits_that_are_right(unseen[1], 0.7), 1.0, CLASSES)
    assert settled.report.photos == "all"
    assert settled.report.accuracy.keys() == {"trained", "given", *choices}


def test_without_unseen_photos_nothing_is_chosen() -> None:
    learnt = photos(centres(0), 10, 1.0, 1)
    settled = settle(known(learnt), None, np.zeros(0, np.int64), None, 1.0, CLASSES)
    assert settled.report.accuracy == {} and len(settled.predictions) == 0
    assert not measured_tensors(settled, np.zeros(0, np.int64), 6)[TOTAL].any()


def test_statistics_of_varied_copies_are_reported_as_such() -> None:
    observed, labels = photos(centres(0), 10, 1.0, 1)
    none = np.zeros(0, np.int64)
    settled = settle(known((observed, labels)), None, none, None, 1.0, CLASSES, are_copies=True)
    alone = settle(known((observed, labels)), None, none, None, 1.0, CLASSES)
    assert settled.report.photos == "varied" and alone.report.photos == "given"


def test_recognised_and_confused_photos_are_counted() -> None:
    labels, found = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 2])
    report = StatisticsReport(photos="all", head="trained", accuracy={})
    solved = np.array([0, 0, 1, 2, 0, 0])
    settled = Settled(EMPTY, report, np.eye(4)[found], np.eye(4)[solved], np.array([9, 1, 1, 9, 9, 1]))
    arrays = measured_tensors(settled, labels, 4)
    assert arrays.keys() == {*MEASURED, HISTOGRAM}
    assert arrays[HISTOGRAM].sum(1).tolist() == [3, 2, 1, 0]
    assert lowest_kept(arrays[HISTOGRAM][1:2], 0.5) == 8.5171  # the edge below 9
    assert arrays[TOTAL].tolist() == [3, 2, 1, 0] and arrays[RIGHT].tolist() == [1, 1, 1, 0]
    assert arrays[RIGHT_SOLVED].tolist() == [2, 0, 0, 0]
    assert arrays[CONFUSIONS][:3].tolist() == [[0, 1, 2], [1, 0, 1], [0, 0, 0]]


def test_unseen_photos_of_only_some_classes_decide_nothing() -> None:
    """Otherwise, photos would be mistaken for classes that have unseen photos, whichever class they show."""
    learnt, unseen = photos(centres(0, 2.0), 40, 0.1, 1), photos(centres(5, 2.0), 10, 1.0, 2)
    some = unseen[1] < 2
    partly = Observation(unseen[0].head_inputs[some]), unseen[1][some]
    settled = settle(known(learnt), *partly, logits_that_are_right(partly[1], 0.4), 1.0, CLASSES)
    assert (settled.report.photos, settled.report.head) == ("given", "trained")
    assert settled.statistics.counts[:CLASSES].tolist() == [40] * CLASSES
    assert set(settled.report.accuracy) == {"trained"} and len(settled.predictions) == 20
    weight, bias = settled.statistics.solve_head(CLASSES)
    np.testing.assert_array_equal(settled.solved, partly[0].head_inputs @ weight.T + bias)


def test_warnings_are_given_for_a_bad_base_and_for_overfitting() -> None:
    labels = np.repeat([0, 1], 50)

    def of(share: float, classes: int = 2) -> EvaluationReport:
        found = np.where(np.arange(100) % 50 < 50 * share, labels, 1 - labels)
        return evaluate_predictions(found[labels < classes], labels[labels < classes], ("a", "b"), 2)

    def said(learnt: float, unseen: float | None, classes: int = 2, **accuracy: float) -> str:
        judged = None if unseen is None else of(unseen, classes)
        choice = StatisticsReport(photos="all", head="trained", accuracy=accuracy)
        return " ".join(vendor_warnings(of(learnt), judged, choice, ("a", "b")))

    assert said(1.0, 0.9, trained=0.9) == ""
    assert "recognises 100% of the photos that it learnt from, but only 70%" in said(1.0, 0.9, trained=0.7)
    assert "recognises only 30% of the photos that the network never saw" in said(0.3, 0.3, trained=0.3)
    assert "recognises only 20% of the photos that it learnt from" in said(0.2, 0.9, trained=0.2)
    assert "recognises only 20% of the photos that it learnt from" in said(0.2, None)
    assert "unlikely to do any better" in said(0.2, None)
    solved = StatisticsReport(photos="all", head="solved", accuracy={"trained": 0.2, "all": 0.9})
    (warning,) = vendor_warnings(of(0.2), of(0.9), solved, ("a", "b"))
    assert warning.startswith("the trained head recognises only 20%") and "unlikely" not in warning
    assert "accuracy on new photos is not known" in said(1.0, None)
    assert "takes 35 of 50 photos of a for b, although it learnt from them" in said(0.3, 0.3, trained=0.3)
    assert "learnt from for" not in said(0.5, 0.9, trained=0.9)
    assert "no unseen photos of b, so unseen photos decide nothing" in said(1.0, 1.0, 1, trained=1.0)
    assert "a head that is solved on a device recognises only 77%" in said(1.0, 0.97, trained=0.97, all=0.77)

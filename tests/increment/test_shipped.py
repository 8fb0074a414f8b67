"""The shipped classes are judged by their statistics, and by the vendor's measurements."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge.increment import shipped
from lwm_edge.increment.shipped import ShippedJudgement, interval_around, judge_shipped
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.model.tensors import RIGHT, RIGHT_SOLVED, TOTAL, empty_tensors

NAMES = ("Coat", "Dress", "Pullover")
CENTRES = np.random.default_rng(0).normal(size=(4, 8)) * 1.5


@pytest.fixture(scope="module")
def known() -> ClassStatistics:
    labels = np.repeat(np.arange(3), 60)
    features = CENTRES[labels] + np.random.default_rng(1).normal(size=(180, 8))
    return ClassStatistics.empty(6, 8).with_photos(features, labels)


def with_new_class(known: ClassStatistics, centre: np.ndarray) -> ClassStatistics:
    features = centre + np.random.default_rng(2).normal(size=(60, 8))
    return known.with_photos(features, np.full(60, 3))


def measured(*right: int, total: int = 40, fewer_if_solved: int = 0) -> dict[str, np.ndarray]:
    tensors = empty_tensors(6, 1)
    tensors[RIGHT][: len(right)], tensors[TOTAL][: len(right)] = right, total
    tensors[RIGHT_SOLVED][: len(right)] = np.array(right) - fewer_if_solved
    return tensors


def test_a_new_class_that_is_far_away_costs_nothing(known: ClassStatistics) -> None:
    statistics = with_new_class(known, CENTRES[3] * 3)
    found = judge_shipped(
        known,
        statistics,
        known.solve_head(3),
        statistics.solve_head(4),
        measured(38, 38, 38),
        NAMES,
        new_right=0.9,
        solved=True,
        is_first=True,
    )
    assert found.lost == [] and found.warnings == [] and found.estimate is not None
    assert found.estimate.measured == pytest.approx(0.95) and found.estimate.photos == 120
    assert found.estimate.now is not None and abs(found.estimate.now - 0.95) < 0.02
    assert found.estimate.before == found.estimate.measured


@pytest.mark.parametrize(
    ("solved", "solved_before", "expected"),
    [(True, True, 0.8), (True, False, 0.8), (False, True, 0.8), (False, False, 0.95)],
)
def test_the_estimate_starts_from_what_a_head_of_the_same_kind_got_right(
    known: ClassStatistics, solved: bool, solved_before: bool, expected: float
) -> None:
    head_before = known.solve_head(3)
    head_before.weight[0, 0] += 0 if solved_before else 0.1
    found = judge_shipped(
        known,
        with_new_class(known, CENTRES[3] * 3),
        head_before,
        with_new_class(known, CENTRES[3] * 3).solve_head(4),
        measured(38, 38, 38, fewer_if_solved=6),
        NAMES,
        new_right=0.9,
        solved=solved,
        is_first=True,
    )
    assert found.estimate is not None and found.estimate.now == pytest.approx(expected, abs=0.03)
    assert found.estimate.measured == found.estimate.before == pytest.approx(0.95)


def test_an_estimate_that_may_be_far_off_is_not_shown_as_a_figure(known: ClassStatistics) -> None:
    statistics = with_new_class(known, CENTRES[3] * 3)
    head = statistics.solve_head(4)
    head.bias[1:3] -= 100
    found = judge_shipped(
        known,
        statistics,
        known.solve_head(3),
        head,
        measured(38, 38, 38),
        NAMES,
        new_right=0.9,
        solved=False,
        is_first=True,
    )
    assert found.estimate is not None and found.estimate.now is None
    low, high = found.estimate.interval
    assert high - low > 0.4 and low < 1 / 3 < high


def test_a_class_that_a_new_one_resembles_is_named_as_losing_most(known: ClassStatistics) -> None:
    statistics = with_new_class(known, CENTRES[1] + 0.02)
    found = judge_shipped(
        known,
        statistics,
        known.solve_head(3),
        statistics.solve_head(4),
        measured(38, 38, 38),
        NAMES,
        new_right=0.9,
        solved=True,
        is_first=True,
    )
    assert found.warnings == ["by estimate, Dress lost the most accuracy; check with lwm-edge evaluate"]
    assert found.estimate is not None and found.estimate.now is not None
    assert found.estimate.now < found.estimate.before - 0.1


def test_a_class_that_falls_to_chance_is_lost(known: ClassStatistics) -> None:
    statistics = with_new_class(known, CENTRES[3])
    heads = known.solve_head(3), statistics.solve_head(4)
    heads[1].bias[0] -= 100
    found = judge_shipped(
        known, statistics, *heads, measured(0, total=0), NAMES, new_right=0.9, solved=True, is_first=True
    )
    assert found.lost == [
        "Coat would be lost: judging by its statistics, the new model recognises it no better than chance"
    ]
    assert found.estimate is None and found.warnings == []
    lost_before = judge_shipped(
        known,
        statistics,
        heads[1],
        heads[1],
        measured(0, total=0),
        NAMES,
        new_right=0.9,
        solved=True,
        is_first=False,
    )
    assert lost_before.lost == []  # this increment did not lose it


def test_the_interval_widens_with_fewer_photos_and_a_larger_drop() -> None:
    width = {
        (now, photos): np.ptp(interval_around(now, 0.9, photos)) for now in (0.9, 0.6) for photos in (50, 500)
    }
    assert width[0.9, 500] == pytest.approx(2 * (2 * 0.0262**2 + 0.03**2) ** 0.5, abs=1e-3)
    assert width[0.9, 500] < width[0.9, 50] < width[0.6, 50] and width[0.6, 500] > 0.3
    assert interval_around(1.0, 1.0, 5)[1] == 1.0 and interval_around(0.0, 0.5, 5)[0] == 0.0


def test_a_later_increment_reuses_the_shipped_rows_of_the_solved_head(
    known: ClassStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Solving again would take more memory than any other part of an increment, for the same decisions."""
    before = with_new_class(known, CENTRES[3])
    features = CENTRES[2] * 2 + np.random.default_rng(3).normal(size=(30, 8))
    now = before.with_photos(features, np.full(30, 4))
    heads = before.solve_head(4), now.solve_head(5)

    def judge() -> ShippedJudgement:
        given = measured(38, 38, 38)
        return judge_shipped(before, now, *heads, given, NAMES, new_right=0.9, solved=True, is_first=False)

    taken = judge()
    monkeypatch.setattr(shipped, "is_solved", lambda weight, statistics: False)
    assert judge() == taken
    monkeypatch.undo()
    monkeypatch.setattr(ClassStatistics, "solve_head", None)
    assert judge() == taken


def test_nothing_is_estimated_from_a_single_class(known: ClassStatistics) -> None:
    """A single class is always recognised, whatever its spread, so nothing can be calibrated."""
    statistics = with_new_class(known, CENTRES[3])
    heads = known.solve_head(1), statistics.solve_head(4)
    found = judge_shipped(
        known, statistics, *heads, measured(5, total=5), NAMES[:1], new_right=0.9, solved=True, is_first=True
    )
    assert found.estimate is None


@pytest.mark.parametrize(("new_right", "sign"), [(0.99, -1), (0.2, 1)])
def test_the_estimated_loss_is_corrected_by_how_often_new_classes_are_recognised(
    known: ClassStatistics, new_right: float, sign: int
) -> None:
    statistics = with_new_class(known, CENTRES[1] + 0.4)

    def estimate(right: float) -> float:
        found = judge_shipped(
            known,
            statistics,
            known.solve_head(3),
            statistics.solve_head(4),
            measured(36, 36, 36),
            NAMES,
            new_right=right,
            solved=True,
            is_first=True,
        )
        assert found.estimate is not None and found.estimate.now is not None
        return found.estimate.now

    spread = known.find_spread(*known.solve_head(3), 3, np.ones(3, bool), 0.9)
    (as_drawn,) = statistics.estimate_accuracy(*statistics.solve_head(4), 4, spread, first=3)
    assert new_right > as_drawn if sign < 0 else new_right < as_drawn
    difference = estimate(new_right) - estimate(float(as_drawn))
    assert difference * sign > 0.01


def test_a_class_of_few_photos_widens_the_interval_of_the_mean(known: ClassStatistics) -> None:
    statistics = with_new_class(known, CENTRES[3] * 3)

    def width(*totals: int) -> float:
        tensors = empty_tensors(6, 1)
        tensors[TOTAL][:3] = totals
        tensors[RIGHT][:3] = tensors[RIGHT_SOLVED][:3] = np.array(totals) * 4 // 5
        heads = known.solve_head(3), statistics.solve_head(4)
        found = judge_shipped(
            known, statistics, *heads, tensors, NAMES, new_right=0.9, solved=True, is_first=True
        )
        assert found.estimate is not None
        return float(np.ptp(found.estimate.interval))

    assert width(40, 40, 40) < width(5, 55, 60) - 0.05

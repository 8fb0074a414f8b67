"""The gate compares figures with their thresholds, and says what it cannot know."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge import IncrementConfig
from lwm_edge.errors import GateError
from lwm_edge.increment.gate import pass_gate
from lwm_edge.learning.reports import DriftReport, ShippedEstimate
from lwm_edge.model.evaluation import evaluate_predictions

ALL_RIGHT = evaluate_predictions(np.array([0, 1]), np.array([0, 1]), ("Coat", "Bag"), 1)


def drift(shipped: ShippedEstimate | None) -> DriftReport:
    return DriftReport(base_agreement=1, probability_change=0, attention_distance=0, shipped=shipped)


def estimate(now: float | None, low: float, high: float) -> ShippedEstimate:
    return ShippedEstimate(measured=0.9, photos=100, classes=5, before=0.9, now=now, interval=(low, high))


def test_without_a_figure_the_interval_is_named_and_its_lower_end_counts() -> None:
    unknown = drift(estimate(None, 0.2, 0.7))
    warnings = pass_gate(IncrementConfig(), ALL_RIGHT, unknown, [], 5)
    assert "right on 20% to 70% of the shipped classes' photos, compared with 90%" in warnings[0]
    assert pass_gate(IncrementConfig(min_shipped_accuracy=0.1), ALL_RIGHT, unknown, [], 5) == warnings
    with pytest.raises(GateError) as refused:
        pass_gate(IncrementConfig(min_shipped_accuracy=0.5), ALL_RIGHT, unknown, [], 5)
    assert refused.value.problems == (
        "estimated accuracy on shipped classes is 0.200, but must be at least 0.5",
    )


def test_an_estimated_figure_is_named_only_if_it_is_low() -> None:
    config = IncrementConfig(min_shipped_accuracy=0.6)
    assert pass_gate(config, ALL_RIGHT, drift(estimate(0.85, 0.5, 0.95)), [], 5) == []
    assert "right on 61% of" in pass_gate(config, ALL_RIGHT, drift(estimate(0.61, 0.5, 0.7)), [], 5)[0]


def test_a_figure_that_just_misses_its_threshold_is_not_rounded_to_it() -> None:
    config = IncrementConfig(min_base_agreement=0.9, max_attention_distance=0.25)
    moved = DriftReport(base_agreement=0.8996, probability_change=0, attention_distance=0.2503, shipped=None)
    with pytest.raises(GateError) as refused:
        pass_gate(config, ALL_RIGHT, moved, [], 5)
    assert refused.value.problems == (
        "agreement on base classes is 0.899, but must be at least 0.9",
        "attention distance is 0.251, but must be at most 0.25",
    )

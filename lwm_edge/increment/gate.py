"""The gate: what a new model must be good enough for, before it may replace the old one."""

from __future__ import annotations

from ..errors import GateError
from ..learning.config import IncrementConfig
from ..learning.reports import DriftReport
from ..model.evaluation import EvaluationReport

_MUCH_FORGOTTEN = 0.7


def pass_gate(config: IncrementConfig, accuracy: EvaluationReport, drift: DriftReport) -> list[str]:
    """Refuses a student that may not replace its teacher; forced, says why it would have been."""
    figures = (
        ("accuracy on held-back photos", accuracy.accuracy, config.least_new_accuracy, "least", 1),
        ("agreement on base classes", drift.base_agreement, config.least_base_agreement, "least", 1),
        (
            "estimated accuracy on shipped classes",
            drift.estimated_shipped_accuracy and drift.estimated_shipped_accuracy[1],
            config.least_shipped_accuracy,
            "least",
            1,
        ),
        ("attention distance", drift.attention_distance, config.most_attention_distance, "most", -1),
    )
    problems = [
        f"{what} is {value:.3f}, and must be at {bound} {limit:.3f}"
        for what, value, limit, bound, sign in figures
        if limit is not None and value is not None and not sign * value >= sign * limit
    ]
    if problems and not config.force:
        raise GateError(
            "the new model is not good enough, so the old one stays: give more or clearer photos (--fresh), "
            "or --force",
            problems,
        )
    warnings = [f"forced through the gate: {problem}" for problem in problems]
    before, now = drift.estimated_shipped_accuracy or (0.0, 0.0)
    if now < _MUCH_FORGOTTEN * before:
        warnings.append(
            f"the model is estimated to be right on {now:.0%} of the shipped classes' photos, from "
            f"{before:.0%} before; lwm-edge evaluate measures it where such photos are"
        )
    return warnings

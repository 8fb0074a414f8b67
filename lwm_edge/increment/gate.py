"""Decides whether a new model is good enough to replace the old one: the gate."""

from __future__ import annotations

from ..errors import GateError
from ..learning.config import IncrementConfig
from ..learning.reports import DriftReport
from ..model.evaluation import EvaluationReport

_LEAST_SHARE_REMEMBERED = 0.7  # of the estimated accuracy before; below this the owner is warned


def pass_gate(config: IncrementConfig, accuracy: EvaluationReport, drift: DriftReport) -> list[str]:
    """Refuses a student that is not good enough to replace its teacher.

    Returns:
        Warnings for the owner; with `force`, they include the reasons for which it would have been refused.

    Raises:
        GateError: The student is refused; every reason is listed.
    """
    figures = (
        ("accuracy on held-back photos", accuracy.accuracy, config.min_new_accuracy, "least", 1),
        ("agreement on base classes", drift.base_agreement, config.min_base_agreement, "least", 1),
        (
            "estimated accuracy on shipped classes",
            drift.estimated_shipped_accuracy and drift.estimated_shipped_accuracy[1],
            config.min_shipped_accuracy,
            "least",
            1,
        ),
        ("attention distance", drift.attention_distance, config.max_attention_distance, "most", -1),
    )
    problems = [
        f"{what} is {value:.3f}, but must be at {bound} {limit:.3f}"
        for what, value, limit, bound, sign in figures
        if limit is not None and value is not None and not sign * value >= sign * limit
    ]
    if problems and not config.force:
        raise GateError(
            "the new model is not good enough, so the old one stays: try again with more or clearer photos "
            "(and --fresh), or accept it with --force",
            problems,
        )
    warnings = [f"forced through the gate: {problem}" for problem in problems]
    before, now = drift.estimated_shipped_accuracy or (0.0, 0.0)
    if now < _LEAST_SHARE_REMEMBERED * before:
        warnings.append(
            f"the model is estimated to be right on {now:.0%} of the shipped classes' photos, down from "
            f"{before:.0%}; to measure it, run lwm-edge evaluate where such photos are"
        )
    return warnings

"""Provides the gate, which decides whether a new model is good enough to replace the old one."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import GateError
from ..learning.config import IncrementConfig
from ..learning.reports import DriftReport, ShippedEstimate
from ..model.evaluation import EvaluationReport
from ..wording import rounded_down

_LEAST_SHARE_REMEMBERED = 0.7  # share of the vendor's accuracy; if less is left, the owner is warned


def pass_gate(
    config: IncrementConfig,
    accuracy: EvaluationReport,
    drift: DriftReport,
    hopeless: Sequence[str],
    shipped_classes: int,
) -> list[str]:
    """Refuses a student that is not good enough to replace its teacher.

    Args:
        config: Settings of the increment, with the thresholds.
        accuracy: Accuracy on the held-back photos.
        drift: Drift of the student from its teacher.
        hopeless: Reasons, besides the thresholds, to refuse the student: taught classes that it recognises no
            better than chance, and shipped classes that are lost.
        shipped_classes: Number of shipped classes that the model still has.

    Returns:
        Warnings for the owner; with `force`, they include the reasons to refuse the student.

    Raises:
        GateError: The student is refused; every reason is listed.
    """
    figures = (
        ("accuracy on held-back photos", accuracy.accuracy, config.min_new_accuracy, "least", 1),
        ("agreement on base classes", drift.base_agreement, config.min_base_agreement, "least", 1),
        (
            "estimated accuracy on shipped classes",
            _least_shipped_accuracy(drift.shipped),
            config.min_shipped_accuracy,
            "least",
            1,
        ),
        ("attention distance", drift.attention_distance, config.max_attention_distance, "most", -1),
    )
    problems = [*hopeless]
    if config.min_shipped_accuracy is not None and shipped_classes and drift.shipped is None:
        problems.append(
            "accuracy on shipped classes cannot be estimated here, but min_shipped_accuracy is set"
        )
    problems += [
        f"{what} is {sign * rounded_down(sign * value, 3):.3f}, but must be at {bound} {limit:g}"
        for what, value, limit, bound, sign in figures
        if limit is not None and value is not None and not sign * value >= sign * limit
    ]
    if problems and not config.force:
        raise GateError(
            "the new model is not good enough, so the old one stays: try again with more or clearer photos "
            "(and --fresh), or accept the new model with --force",
            problems,
        )
    warnings = [f"forced through the gate: {problem}" for problem in problems]
    if shipped := drift.shipped:
        low, high = shipped.interval
        share = f"{low:.0%} to {high:.0%}" if shipped.now is None else f"{shipped.now:.0%}"
        if shipped.now is None or shipped.now < _LEAST_SHARE_REMEMBERED * shipped.measured:
            warnings.append(
                f"the model is estimated to be right on {share} of the shipped classes' photos, "
                f"compared with {shipped.measured:.0%} when it was shipped; to measure it, run "
                "lwm-edge evaluate on such photos"
            )
    return warnings


def _least_shipped_accuracy(shipped: ShippedEstimate | None) -> float | None:
    """Returns the estimated accuracy on shipped classes; without a figure, the lower end of its interval."""
    if shipped is None:
        return None
    return shipped.interval[0] if shipped.now is None else shipped.now

"""Defines what learning returns: how the training went, and how far the network moved."""

from __future__ import annotations

from ..records import Report


class TrainingReport(Report):
    """Reports how the training went.

    Attributes:
        epochs: Number of passes over the photos.
        steps: Number of optimiser updates.
        classification_loss: Mean of L_C over the last epoch.
        distillation_loss: Mean of L_D, before weighting; None if the recipe leaves it out.
        attention_distillation_loss: Mean of L_AD, before weighting; None if the recipe leaves it out.
        step_ms: Mean time of an optimiser update.
        seconds: Wall-clock time of the training.
    """

    epochs: int
    steps: int
    classification_loss: float
    distillation_loss: float | None
    attention_distillation_loss: float | None
    step_ms: float
    seconds: float


class DriftReport(Report):
    """Reports how far the student moved from its teacher, on held-back photos of the new classes.

    Attributes:
        base_agreement: Share of photos on which both rank the same base class highest.
        probability_change: Mean absolute change of the base classes' sigmoid outputs.
        attention_distance: Mean L1 distance of the normalised attention maps (L_AD).
        estimated_shipped_accuracy: Share of features, drawn from the class statistics of the shipped classes,
            that the model gets right, before and now; None without such classes. It is an estimate: where the
            backbone moved, the statistics were carried along.
    """

    base_agreement: float
    probability_change: float
    attention_distance: float
    estimated_shipped_accuracy: tuple[float, float] | None

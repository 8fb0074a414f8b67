"""Defines the reports on learning: how the training went, and how far the network moved."""

from __future__ import annotations

from ..records import Report


class TrainingReport(Report):
    """Reports how the training went.

    Attributes:
        epochs: Number of passes over the photos.
        steps: Number of optimiser updates.
        classification_loss: Mean of L_C over the last epoch.
        distillation_loss: Mean of L_D over the last epoch, unweighted; None if the loss leaves it out.
        attention_distillation_loss: Mean of L_AD over the last epoch, unweighted; None if it is left out.
        step_ms: `seconds` divided by the number of updates in that time, in milliseconds.
        seconds: Wall-clock time of the training since it began or was last resumed.
        micro_batch_size: Number of photos that were processed at once in the last update. It is below the
            plan's if a GPU had no memory for more. None in the reports of bases and of older versions.
    """

    epochs: int
    steps: int
    classification_loss: float
    distillation_loss: float | None
    attention_distillation_loss: float | None
    step_ms: float
    seconds: float
    micro_batch_size: int | None = None


class ShippedEstimate(Report):
    """Reports an estimate of the accuracy on the shipped classes, whose photos a device does not have.

    The estimate starts from the vendor's measurement. Photos are simulated from the class statistics; their
    spread is chosen so that a model of the shipped classes alone would be as accurate as the vendor measured.

    Attributes:
        measured: Accuracy that the vendor measured on photos that the network never saw.
        photos: Number of photos in the vendor's measurement.
        classes: Number of shipped classes that these photos show; all figures leave out the other classes.
        before: Estimated accuracy of the model before this increment.
        now: Estimated accuracy of the new model; None if the interval is too wide to give a figure.
        interval: Interval around the estimate, which allows for chance and for errors of the estimate itself.
    """

    measured: float
    photos: int
    classes: int
    before: float
    now: float | None
    interval: tuple[float, float]


class DriftReport(Report):
    """Reports how far the student moved from its teacher, on the held-back photos.

    Attributes:
        base_agreement: Share of photos for which student and teacher rank the same class highest, among the
            teacher's classes.
        probability_change: Mean absolute change of the sigmoid outputs for the teacher's classes.
        attention_distance: Mean L1 distance of the normalised attention maps (L_AD); None if the backbone
            stayed as it was.
        shipped: Estimate of the accuracy on the shipped classes; None unless the bundle has the
            vendor's measurements of at least two of the shipped classes that the model still knows.
    """

    base_agreement: float
    probability_change: float
    attention_distance: float | None
    shipped: ShippedEstimate | None

"""Measures how far a student moved from its teacher, on photos of the new classes."""

from __future__ import annotations

import numpy as np

from .discriminant import Features, Head
from .reports import DriftReport, ShippedEstimate


def measure_drift(
    student: Head,
    teacher: Head,
    by_student: Features,
    by_teacher: Features,
    attention_distance: float | None,
    shipped: ShippedEstimate | None,
) -> DriftReport:
    """Compares the outputs of student and teacher for the classes that the teacher knows.

    Args:
        student: Head of the student M_t.
        teacher: Head of the teacher M_{t-1}.
        by_student: Inputs of the student's head for photos of the new classes [M, d].
        by_teacher: Inputs of the teacher's head for the same photos [M, d].
        attention_distance: Distance between the attention maps of student and teacher (see `losses`); None if
            it was not measured.
        shipped: Estimate of the accuracy on the shipped classes; None if there is no estimate.
    """
    teacher_logits = teacher.logits(by_teacher)
    logits = student.logits(by_student)[:, : teacher_logits.shape[1]]
    return DriftReport(
        base_agreement=float((logits.argmax(1) == teacher_logits.argmax(1)).mean()),
        probability_change=float(np.abs(_sigmoid(logits) - _sigmoid(teacher_logits)).mean()),
        attention_distance=attention_distance,
        shipped=shipped,
    )


def _sigmoid(logits: Features) -> Features:
    probabilities: Features = (1 + np.tanh(logits / 2)) / 2  # unlike exp, tanh never overflows
    return probabilities

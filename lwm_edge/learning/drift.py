"""Measures how far a student moved from its teacher, on photos of the new classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..model.network import Network
from .attention import attention_map
from .losses import attention_distillation_loss
from .reports import DriftReport, ShippedEstimate
from .running import Observation


@torch.no_grad()
def measure_drift(
    student: Network,
    teacher: Network,
    by_student: Observation,
    by_teacher: Observation,
    shipped: ShippedEstimate | None,
) -> DriftReport:
    """Compares the outputs and attention maps of student and teacher for the base classes.

    Args:
        student: Network M_t.
        teacher: Network M_{t-1}.
        by_student: Observation of photos of the new classes by the student, with its maps.
        by_teacher: Observation of the same photos by the teacher, with its maps.
        shipped: Estimate of the accuracy on the shipped classes, if there is one.
    """
    N = teacher.classes
    logits, teacher_logits = by_student.logits(student)[:, :N], by_teacher.logits(teacher)
    b = logits.argmax(1)
    Q_student, Q_teacher = _attention(student, by_student, b), _attention(teacher, by_teacher, b)
    return DriftReport(
        base_agreement=float((b == teacher_logits.argmax(1)).mean()),
        probability_change=float(np.abs(_sigmoid(logits) - _sigmoid(teacher_logits)).mean()),
        attention_distance=float(attention_distillation_loss(Q_student, Q_teacher)),
        shipped=shipped,
    )


def _attention(network: Network, seen: Observation, class_index: np.ndarray) -> Tensor:
    """Computes the attention map of one class for each photo [M, h, w]."""
    assert seen.maps is not None, "the maps were not kept"
    return attention_map(seen.maps, network.attention_weight.detach().cpu(), torch.from_numpy(class_index))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).sigmoid().numpy()

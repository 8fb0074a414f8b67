"""How far a student moved from its teacher, seen on photos of the new classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..model.network import Network
from .attention import attention_map
from .losses import attention_distillation_loss
from .reports import DriftReport
from .running import Observation


@torch.no_grad()
def measure_drift(
    student: Network,
    teacher: Network,
    by_student: Observation,
    by_teacher: Observation,
    estimates: tuple[float, float] | None,
) -> DriftReport:
    """Compares outputs and attention maps of the base classes.

    Args:
        student: M_t.
        teacher: M_{t-1}.
        by_student: What the student made of photos of the new classes, with its maps.
        by_teacher: What the teacher made of the same photos, with its maps.
        estimates: Accuracy on the shipped classes before and now, from the class statistics.
    """
    N = teacher.classes
    logits, teacher_logits = by_student.logits(student)[:, :N], by_teacher.logits(teacher)
    b = logits.argmax(1)
    Q_student, Q_teacher = _attention(student, by_student, b), _attention(teacher, by_teacher, b)
    return DriftReport(
        base_agreement=float((b == teacher_logits.argmax(1)).mean()),
        probability_change=float(np.abs(_sigmoid(logits) - _sigmoid(teacher_logits)).mean()),
        attention_distance=float(attention_distillation_loss(Q_student, Q_teacher)),
        estimated_shipped_accuracy=estimates,
    )


def _attention(network: Network, seen: Observation, class_index: np.ndarray) -> Tensor:
    """The attention map of one class for each photo [M, h, w]."""
    assert seen.maps is not None, "observed without its maps"
    return attention_map(seen.maps, network.attention_weight.detach().cpu(), torch.from_numpy(class_index))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).sigmoid().numpy()

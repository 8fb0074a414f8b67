"""How far a student moved from its teacher, seen on photos of the new classes."""

from __future__ import annotations

import numpy as np
import torch

from ..model.network import Network
from ..photos.photo_set import PhotoSet
from .attention import attention_map
from .losses import attention_distillation_loss
from .reports import DriftReport
from .running import run_network


@torch.no_grad()
def measure_drift(
    student: Network,
    teacher: Network,
    photos: PhotoSet,
    batch_size: int,
    estimates: tuple[float, float] | None,
) -> DriftReport:
    """Compares outputs and attention maps of the base classes.

    Args:
        student: M_t.
        teacher: M_{t-1}.
        photos: Of the new classes.
        batch_size: Photos at once.
        estimates: Accuracy on the shipped classes before and now, from the class statistics.
    """
    N = teacher.classes
    totals = np.zeros(3)
    outputs = zip(
        run_network(student, photos, batch_size), run_network(teacher, photos, batch_size), strict=True
    )
    for (features, logits), (teacher_features, teacher_logits) in outputs:
        b = logits[:, :N].argmax(1)
        change = (logits[:, :N].sigmoid() - teacher_logits.sigmoid()).abs().mean()
        distance = attention_distillation_loss(
            attention_map(features, student.attention_weight, b),
            attention_map(teacher_features, teacher.attention_weight, b),
        )
        agreement = (b == teacher_logits.argmax(1)).float().mean()
        totals += [len(b) * float(value) for value in (agreement, change, distance)]
    base_agreement, probability_change, attention_distance = (float(t) for t in totals / len(photos.labels))
    return DriftReport(
        base_agreement=base_agreement,
        probability_change=probability_change,
        attention_distance=attention_distance,
        estimated_shipped_accuracy=estimates,
    )

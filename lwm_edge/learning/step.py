"""Computes one step of Learning without Memorizing: the loss's three terms for a batch, and their gradients.

L = L_C + beta * L_D + gamma * L_AD
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..freed_memory import drop_mapped_pages
from ..model.levels import Activations
from ..model.network import Network
from ..model.precision import computing_in
from ..model.terms import Activation, Precision
from .attention import attention_map
from .batches import Batch, chunks
from .config import Recipe
from .frozen import FrozenOutputs
from .losses import attention_distillation_loss, classification_loss, distillation_loss

Outputs = tuple[Tensor, Tensor]  # features [B, d, h, w] and logits [B, classes]


class Losses(NamedTuple):
    """Holds the loss's three terms before weighting; a term is None if its weight is 0.

    Attributes:
        classification: Scalar L_C.
        distillation: Scalar L_D.
        attention_distillation: Scalar L_AD.
    """

    classification: Tensor
    distillation: Tensor | None
    attention_distillation: Tensor | None

    def total(self, beta: float, gamma: float) -> Tensor:
        """Computes L = L_C + beta * L_D + gamma * L_AD (eq. 5 of Dhar et al. 2019)."""
        loss = self.classification
        if self.distillation is not None:
            loss = loss + beta * self.distillation
        if self.attention_distillation is not None:
            loss = loss + gamma * self.attention_distillation
        return loss


def lwm_losses(
    student: Network,
    teacher: Network,
    student_outputs: Outputs,
    teacher_outputs: Outputs | None,
    labels: Tensor,
    *,
    beta: float,
    gamma: float,
    classification: Activation,
) -> Losses:
    """Computes the loss's three terms for a batch, except those whose weight is 0.

    Args:
        student: Network M_t, in eval mode; it knows the teacher's N classes and k new ones.
        teacher: Network M_{t-1}, frozen, in eval mode; it knows N classes.
        student_outputs: Student's features and logits for the images.
        teacher_outputs: Teacher's features and logits for the images; None if beta and gamma are both 0.
        labels: class_index of each image [B] int64, each >= N.
        beta: Weight of L_D.
        gamma: Weight of L_AD.
        classification: Kind of L_C.
    """
    N = teacher.classes
    features, logits = student_outputs
    L_C = classification_loss(logits, labels, N, classification)
    L_D = L_AD = None
    if teacher_outputs:  # the teacher runs unless beta and gamma are both 0
        teacher_features, teacher_logits = teacher_outputs
    if beta:
        L_D = distillation_loss(logits[:, :N], teacher_logits)
    if gamma:
        b = logits[:, :N].argmax(1)  # the base class that the student ranks highest; both maps are for it
        Q_student = attention_map(features, student.attention_weight, b)
        Q_teacher = attention_map(teacher_features, teacher.attention_weight, b)
        L_AD = attention_distillation_loss(Q_student, Q_teacher)
    return Losses(L_C, L_D, L_AD)


def accumulate_gradients(
    student: Network,
    teacher: Network,
    batch: Batch,
    micro_batch_size: int,
    recipe: Recipe,
    classification: Activation,
    precision: Precision = "float32",
    frozen: FrozenOutputs | None = None,
) -> NDArray[np.float64]:
    """Adds up a batch's gradients, one micro-batch at a time; returns L_C, L_D and L_AD of the batch."""
    with computing_in(precision, student, teacher):
        parts = _stem_outputs(student, batch, micro_batch_size, frozen)
        return _accumulate(student, teacher, batch, parts, recipe, classification)


def _stem_outputs(
    student: Network, batch: Batch, micro_batch_size: int, frozen: FrozenOutputs | None
) -> Iterator[tuple[Activations, list[int]]]:
    """Yields, for each micro-batch, the outputs of the blocks that both networks share, and the labels."""
    device, kept = student.head.weight.device, len(batch.kept)
    if frozen:
        for part in chunks(kept, micro_batch_size):
            yield frozen.of(batch.kept[part], device), batch.labels[:kept][part]
    for part in chunks(len(batch.pixels), micro_batch_size):
        yield student.stem(torch.from_numpy(batch.pixels[part]).to(device)), batch.labels[kept:][part]


def _accumulate(
    student: Network,
    teacher: Network,
    batch: Batch,
    parts: Iterator[tuple[Activations, list[int]]],
    recipe: Recipe,
    classification: Activation,
) -> NDArray[np.float64]:
    batch_losses = np.zeros(3)
    for shared, part_labels in parts:
        labels = torch.tensor(part_labels, device=student.head.weight.device)
        teacher_outputs = None
        if recipe.beta or recipe.gamma:
            with torch.no_grad():
                teacher_outputs = teacher.after_stem(shared)
            drop_mapped_pages(teacher.mapped)  # the teacher is done; the student's passes need the memory
        losses = lwm_losses(
            student,
            teacher,
            student.after_stem(shared),
            teacher_outputs,
            labels,
            beta=recipe.beta,
            gamma=recipe.gamma,
            classification=classification,
        )
        del shared, teacher_outputs  # the backward pass needs the memory
        share = len(labels) / len(batch.labels)
        (share * losses.total(recipe.beta, recipe.gamma)).backward()  # type: ignore[no-untyped-call]
        batch_losses += [share * term.item() if term is not None else 0.0 for term in losses]
    return batch_losses

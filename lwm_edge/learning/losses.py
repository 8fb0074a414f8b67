"""Computes the three terms of Learning without Memorizing (Dhar et al. 2019, eq. 5).

    L = L_C + beta * L_D + gamma * L_AD

Each term is summed over classes or map cells and averaged over the images of a batch. So the loss of an image
depends on no other image, and the scale of the loss does not depend on the batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.terms import Activation

_SMALLEST_NORM = 1e-6  # keeps a map of zeros zero, and its gradient finite


def classification_loss(logits: Tensor, labels: Tensor, base_classes: int, kind: Activation) -> Tensor:
    """Computes L_C, which teaches the new classes.

    Args:
        logits: Logits of the student [B, N + k], base classes first.
        labels: class_index of each image [B] int64, each >= base_classes.
        base_classes: Number N of classes that the teacher knows; 0 while a base is trained.
        kind: Kind of L_C. `sigmoid` is the binary cross entropy of the k new outputs against the one-hot
            label, summed over these outputs, as in LwF-MC (Rebuffi et al. 2017), which the paper builds on.
            `softmax` is the cross entropy over all N + k outputs.

    Returns:
        A scalar.
    """
    if kind == "softmax":
        return F.cross_entropy(logits, labels)
    new_logits = logits[:, base_classes:]
    one_hot = F.one_hot(labels - base_classes, new_logits.shape[1]).to(new_logits.dtype)
    return _binary_cross_entropy(new_logits, one_hot)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Computes L_D, which keeps the base classes' outputs close to the teacher's (eq. 1).

    The paper prints -sum sigma(y_i) log sigma(y^_i), where y are the teacher's logits and y^ the student's.
    This first half of the binary cross entropy would push every logit up even where student and teacher
    agree. The full form, as in LwF-MC's code, is smallest where they agree.

    Args:
        student_logits: Logits of the student for the N base classes [B, N].
        teacher_logits: Logits of the teacher for the same classes [B, N].

    Returns:
        A scalar.
    """
    return _binary_cross_entropy(student_logits, torch.sigmoid(teacher_logits).detach())


def attention_distillation_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Computes L_AD, which keeps the student looking where the teacher looks (eq. 3 and 4).

    Args:
        student_map: Map Q_t [B, h, w] >= 0, through which the gradient flows.
        teacher_map: Map Q_{t-1} [B, h, w] >= 0 for the same classes.

    Returns:
        A scalar: the L1 distance between the maps, each divided by its own L2 norm. It is summed over the
        l = h * w cells and averaged over the images; it is 0 for equal maps, and at most sqrt(2 * l).
    """
    Q_student = F.normalize(student_map.flatten(1), dim=1, eps=_SMALLEST_NORM)
    Q_teacher = F.normalize(teacher_map.detach().flatten(1), dim=1, eps=_SMALLEST_NORM)
    return (Q_student - Q_teacher).abs().sum(1).mean()


def _binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()

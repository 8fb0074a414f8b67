"""Gives a base a second task during training: telling by how many quarter turns a photo was rotated.

A network that has few classes to tell apart does not learn the features that new classes need. Therefore each
class counts as four, one for each rotation. An extra layer tells all of these apart; it is dropped after the
training. The idea comes from Lee et al. 2020, "Self-supervised Label Augmentation via Input Transformations".
Zhu et al. 2021, "Prototype Augmentation and Self-Supervision for Incremental Learning", use it for
continual learning.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ROTATIONS = 4


class RotationTask(nn.Module):
    """Holds the layer of the second task, and rotates the photos that it learns from.

    Args:
        d: Number of channels of the features.
        classes: Number of classes N of the base.
        seed: Seed of the layer's weights and of the rotation of each photo.

    Attributes:
        generator: Random generator that decides how far each photo is rotated.
    """

    def __init__(self, d: int, classes: int, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.layer = nn.Linear(d, _ROTATIONS * classes)
        nn.init.normal_(self.layer.weight, std=d**-0.5, generator=self.generator)
        nn.init.zeros_(self.layer.bias)

    def with_rotated(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Adds a rotated copy of each image.

        Args:
            images: Images [B, H, H, 3].
            labels: class_index [B] int64.

        Returns:
            Images [2B, H, H, 3], upright ones first, and a label of class and rotation for each [2B] int64.
        """
        turns = torch.randint(1, _ROTATIONS, labels.shape, generator=self.generator)
        turned = [torch.rot90(image, int(k), (0, 1)) for image, k in zip(images, turns, strict=True)]
        own = _ROTATIONS * labels
        return torch.cat([images, torch.stack(turned)]), torch.cat([own, own + turns.to(own)])

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Computes the cross entropy of class and rotation, a scalar, from features [2B, d, h, w]."""
        return F.cross_entropy(self.layer(features.mean((2, 3))), labels)

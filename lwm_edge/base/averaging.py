"""Keeps a part of the pretrained weights that a base's training started from.

Training suits a network to pictures like the vendor's, but it loses some of what pretrained weights can tell
apart, which classes that come later need. Weights half way between the two keep most of both
(benchmarks/README.md, "What pretrained weights keep"). The idea comes from Wortsman et al. 2022, "Robust
Fine-Tuning of Zero-Shot Models".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..records import Progress, ProgressCallback
from .config import BaseConfig
from .ranks import Ranks
from .saved_training import NeverSaved
from .train import train_base

_PART_OF_EPOCHS = 5  # the head is trained for a fifth of the epochs


@torch.no_grad()
def average_weights(network: Network, pretrained: Mapping[str, Tensor], share: float) -> None:
    """Replaces each tensor of a backbone by a weighted mean of the pretrained one and itself.

    Args:
        network: Trained network.
        pretrained: State dict of its backbone before training, on the same device.
        share: Weight of the pretrained tensors, from 0 to 1.
    """
    for name, tensor in network.backbone.state_dict().items():
        if tensor.is_floating_point():
            tensor.lerp_(pretrained[name], share)


def train_head(
    network: Network, photos: PhotoSet, config: BaseConfig, ranks: Ranks, on_progress: ProgressCallback
) -> None:
    """Trains the head alone for a fifth of the epochs, since it has learnt from other features than these.

    Args:
        network: Network whose weights were averaged.
        photos: Photos that it has learnt from.
        config: Settings of the base.
        ranks: Processes that train together.
        on_progress: Function that is called after every update.
    """

    def report(progress: Progress) -> None:
        """Reports an update as one of the head's training."""
        on_progress(progress.model_copy(update={"phase": "head"}))

    changes = {
        "frozen_blocks": len(network.blocks()),
        "rotations": False,
        "epochs": math.ceil(config.epochs / _PART_OF_EPOCHS),
    }
    train_base(network, photos, config.model_copy(update=changes), NeverSaved(), ranks, report)

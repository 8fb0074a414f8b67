"""Runs a network on photos without learning from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback, ignore_progress, step_reporter
from .batches import chunks
from .class_statistics import Features
from .config import Device


def choose_device(device: Device) -> torch.device:
    """Resolves a device setting; `auto` means the GPU if there is one.

    Raises:
        ConfigError: The setting is cuda, but torch finds no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU that it can use; choose device cpu or auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@dataclass(frozen=True)
class Observation:
    """Holds what a network computed for some photos, in their order.

    Evaluation, statistics and drift are computed from it, so that each photo is seen only once.

    Attributes:
        head_inputs: Values that the head reads [M, its inputs] float64.
        maps: Last feature maps [M, d, h, w] float32, on the CPU; None if they were not kept.
    """

    head_inputs: Features
    maps: Tensor | None

    def logits(self, network: Network) -> Features:
        """Computes the logits that a network's head, as it is now, gives the photos [M, classes] float64."""
        weight, bias = (tensor.cpu().double().numpy() for tensor in network.head_tensors())
        logits: Features = self.head_inputs @ weight.T + bias
        return logits


@torch.no_grad()
def observe(
    network: Network,
    photos: PhotoSet,
    batch_size: int,
    on_progress: ProgressCallback = ignore_progress,
    *,
    keep_maps: bool = False,
    epoch: int | None = None,
) -> Observation:
    """Runs a network once on each photo.

    Args:
        network: Network in eval mode.
        photos: Photos, each of which is read once.
        batch_size: Number of photos computed at once.
        on_progress: Function that is called before each photo.
        keep_maps: Whether to keep the last feature maps; they take more memory than the rest.
        epoch: Epoch that augments the photos; None leaves them as they are.
    """
    count = len(photos.photos)
    head_inputs: list[NDArray[np.float32]] = []
    maps: list[Tensor] = []
    report = step_reporter("features", count, on_progress)
    for part in chunks(count, batch_size):
        pixels = photos.load(range(count)[part], epoch, report)
        images = torch.from_numpy(pixels).to(network.head.weight.device)
        activations = network.activations(images)
        head_inputs.append(activations.pooled().cpu().numpy())
        if keep_maps:
            maps.append(activations.maps.cpu())
    return Observation(np.concatenate(head_inputs).astype(np.float64), torch.cat(maps) if keep_maps else None)

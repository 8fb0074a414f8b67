"""Runs a network on photos without learning from them, with torch or with ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..photos.photo_set import PhotoSet
from ..photos.pixels import Pixels
from ..records import ProgressCallback, StepReporter, ignore_progress
from .batches import chunks
from .config import Device
from .discriminant import Features, Head

if TYPE_CHECKING:
    import torch

    from ..model.network import Network


def choose_device(device: Device) -> torch.device:
    """Resolves a device setting; `auto` means the GPU if there is one.

    Raises:
        ConfigError: The setting is cuda, but torch finds no GPU.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU that it can use; choose device cpu or auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def head_of(network: Network) -> Head:
    """Returns the current weight and bias of a network's head."""
    weight, bias = (tensor.cpu().double().numpy() for tensor in network.head_tensors())
    return Head(weight, bias)


class FeatureExtractor(Protocol):
    """Describes a network that computes a head's inputs, either a `Network` or a `Backbone`."""

    def run(self, images: Pixels, *, keep_maps: bool) -> tuple[NDArray[np.float32], Any]:
        """Runs the network on images [B, H, W, 3] uint8; see `Network.run` and `Backbone.run`."""


@dataclass(frozen=True)
class Observation:
    """Holds what a network computed for some photos, in the order of the photos.

    Evaluation, statistics and drift are all computed from these values.

    Attributes:
        head_inputs: The head's inputs [M, number of inputs] float64.
        maps: Last feature maps [B, d, h, w] float32 of each batch, on the CPU; empty if they were not kept.
    """

    head_inputs: Features
    maps: tuple[Any, ...] = ()

    def logits(self, network: Network) -> Features:
        """Computes the photos' logits [M, classes] float64 with the current head of a network."""
        return head_of(network).logits(self.head_inputs)


def observe(
    network: FeatureExtractor,
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
        batch_size: Number of photos that are processed at once.
        on_progress: Function that is called before each photo.
        keep_maps: Whether to keep the last feature maps; they take more memory than the head's inputs.
        epoch: Epoch to augment the photos for; None leaves them as they are.
    """
    count = len(photos.photos)
    head_inputs: list[NDArray[np.float32]] = []
    maps: list[Any] = []
    report = StepReporter("features", count, on_progress)
    for part in chunks(count, batch_size):
        pixels = photos.load(range(count)[part], epoch, report)
        values, last_maps = network.run(pixels, keep_maps=keep_maps)
        head_inputs.append(values)
        maps += [last_maps] if keep_maps else []
    return Observation(np.concatenate(head_inputs).astype(np.float64), tuple(maps))

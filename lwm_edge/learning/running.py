"""Runs a network on photos as they are, without learning from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from ..model.network import Network
from ..photos.photo_set import AS_THEY_ARE, PhotoSet
from ..records import Progress, ProgressCallback, ignore_progress
from .batches import chunks
from .class_statistics import Features, Labels
from .config import Device


def choose_device(device: Device) -> torch.device:
    """`auto` is the GPU if there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no GPU that torch can use; choose device cpu or auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def predict_labels(network: Network, photos: PhotoSet, batch_size: int) -> Labels:
    """The best class_index of each photo as it is [M] int64."""
    best = [logits.argmax(1).cpu().numpy() for _, logits in run_network(network, photos, batch_size)]
    return np.concatenate(best)


@torch.no_grad()
def pooled_features(
    network: Network, photos: PhotoSet, batch_size: int, on_progress: ProgressCallback = ignore_progress
) -> Features:
    """What the head reads of the photos as they are [M, its inputs] float64."""
    pooled: list[NDArray[np.float32]] = []
    for images in _images(network, photos, batch_size):
        pooled.append(network.pooled(images).cpu().numpy())
        done = min(len(pooled) * batch_size, len(photos.photos))
        on_progress(Progress(phase="features", done=done, total=len(photos.photos)))
    return np.concatenate(pooled).astype(np.float64)


@torch.no_grad()
def run_network(network: Network, photos: PhotoSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and logits of the photos as they are, a batch at a time, without augmentation."""
    for images in _images(network, photos, batch_size):
        yield network(images)


def _images(network: Network, photos: PhotoSet, batch_size: int) -> Iterator[Tensor]:
    for part in chunks(len(photos.photos), batch_size):
        pixels = photos.load(range(len(photos.photos))[part], AS_THEY_ARE)
        yield torch.from_numpy(pixels).to(network.head.weight.device)

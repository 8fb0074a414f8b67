"""Trains a vendor's base: a whole network, on all its classes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from ..errors import ConfigError, GateError
from ..learning.batches import epoch_batches
from ..learning.losses import classification_loss
from ..learning.optimizer import all_finite
from ..learning.reports import TrainingReport
from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..photos.pixels import Pixels
from ..processors import usable_processors
from ..records import Progress, ProgressCallback
from ..wording import counted
from .config import BaseConfig
from .ranks import Ranks
from .reading_ahead import read_ahead
from .rotations import RotationTask
from .saved_training import NeverSaved, SavedTraining, TrainingParts

_MAX_GRADIENT_NORM = 5.0


class _Losses(nn.Module):
    """Computes the losses that a base is trained on: L_C and, with rotations, that of `RotationTask`."""

    def __init__(self, network: Network, config: BaseConfig, rotation_seed: int) -> None:
        super().__init__()
        self.network = network
        self.rotation_task: RotationTask | None = None
        self._activation = config.activation
        if config.rotations:
            d = network.attention_weight.shape[1]
            self.rotation_task = RotationTask(d, network.classes, rotation_seed)

    def generators(self) -> tuple[torch.Generator, ...]:
        """Returns the random generators that the losses draw from."""
        return (self.rotation_task.generator,) if self.rotation_task else ()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the total loss and L_C, two scalars, for images [B, H, W, 3] and class_index [B]."""
        if self.rotation_task:
            images, rotated = self.rotation_task.with_rotated(images, labels)
        features, logits = self.network(images)
        loss = L_C = classification_loss(logits[: len(labels)], labels, 0, self._activation)
        if self.rotation_task:
            loss = L_C + self.rotation_task.loss(features, rotated)
        return loss, L_C


def train_base(
    network: Network,
    photos: PhotoSet,
    config: BaseConfig,
    saved: SavedTraining | NeverSaved,
    ranks: Ranks,
    on_progress: ProgressCallback,
) -> TrainingReport:
    """Trains a whole network by one-cycle SGD on L_C and, with `rotations`, on a second task.

    Every process computes its share of each batch, and all make the same update with the mean gradient. If
    training was interrupted, it continues from where it was saved.

    Args:
        network: Network on the device to train on.
        photos: Photos to learn from.
        config: Settings of the base.
        saved: Store of the unfinished training, to continue from and to save to.
        ranks: Processes that train together.
        on_progress: Function that is called after every update.

    Raises:
        ConfigError: The batches are too small for the processes, or too many blocks are to be frozen.
        GateError: The loss, a gradient or a weight is no longer finite.
    """
    device = network.head.weight.device
    _check_batches(len(photos.photos), config, ranks)
    steps_per_epoch = max(1, len(photos.photos) // config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    peak = config.learning_rate or (0.01 if config.weights or config.checkpoint else 0.05)
    labels = torch.tensor(photos.labels, device=device)
    _set_trainable(network, config)
    losses = _Losses(network, config, config.seed + ranks.rank).to(device)
    parameters = [parameter for parameter in losses.parameters() if parameter.requires_grad]
    optimizer = _sgd(parameters, config)
    parts = TrainingParts(losses, optimizer, losses.generators())
    saved.restore(parts)
    compute_losses = ranks.together(losses)
    readers = 1 if device.type == "cpu" else max(1, usable_processors() // ranks.local_size)
    first = step = saved.epoch * steps_per_epoch
    started, epoch_loss = time.monotonic(), saved.loss

    for epoch in range(saved.epoch, config.epochs):
        epoch_loss = 0.0
        for batch, share, images in _batches(photos, config, ranks, epoch, steps_per_epoch, readers):
            for group in optimizer.param_groups:
                group["lr"] = peak * _one_cycle(step / total_steps)
            loss, L_C = compute_losses(torch.from_numpy(images).to(device), labels[share])
            # Each process is weighted by its number of photos, so the mean gradient is the whole batch's.
            weight = ranks.size * len(share) / len(batch)
            optimizer.zero_grad(set_to_none=True)
            (weight * loss).backward()
            step += 1
            norm = torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            if not all_finite([loss, norm]):
                raise _diverged(step, peak)
            optimizer.step()
            epoch_loss += weight * L_C.item() / steps_per_epoch
            on_progress(Progress(phase="train", done=step, total=total_steps, loss=loss.item()))
        ranks.average(network.buffers())  # each process took BatchNorm's statistics from its own share
        saved.save_if_due(parts, epoch + 1, config.epochs, epoch_loss)

    # After the last update, no loss would show that the weights are no longer finite.
    if not all_finite([*network.parameters(), *network.buffers()]):
        raise _diverged(step, peak)
    network.eval().requires_grad_(False)
    seconds = time.monotonic() - started
    return TrainingReport(
        epochs=config.epochs,
        steps=step,
        classification_loss=sum(ranks.gather(epoch_loss)) / ranks.size,
        distillation_loss=None,
        attention_distillation_loss=None,
        step_ms=1000 * seconds / max(1, step - first),
        seconds=seconds,
    )


def _sgd(parameters: list[nn.Parameter], config: BaseConfig) -> torch.optim.SGD:
    """Makes the optimiser; every step sets its learning rate."""
    return torch.optim.SGD(
        parameters,
        lr=1.0,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )


def _batches(
    photos: PhotoSet, config: BaseConfig, ranks: Ranks, epoch: int, count: int, readers: int
) -> Iterator[tuple[Sequence[int], Sequence[int], Pixels]]:
    """Yields, for each batch of an epoch, its indices, this process's share of them, and the share's pixels.

    A last, smaller batch is left out unless it is the only one, as it may have too few images for BatchNorm.
    """
    every_batch = epoch_batches(len(photos.photos), config.batch_size, config.seed, epoch)
    batches = list(islice(every_batch, count))
    shares = [ranks.share(batch) for batch in batches]
    return zip(batches, shares, read_ahead(photos, shares, epoch, readers), strict=True)


def _check_batches(photos: int, config: BaseConfig, ranks: Ranks) -> None:
    """Refuses batches so small that some process would get fewer than the two photos that BatchNorm needs."""
    smallest = min(photos, config.batch_size)
    if smallest < 2:
        raise ConfigError(
            "a single photo is left to learn from, but training needs two; give more photos, or hold back "
            "fewer (--held-back)"
        )
    if smallest < 2 * ranks.size:
        raise ConfigError(
            f"a batch of {counted(smallest, 'photo', 'photos')} is too small for {ranks.size} processes, as "
            f"each needs two: pass --batch-size {2 * ranks.size} or more, or start fewer processes"
        )


def _diverged(step: int, learning_rate: float) -> GateError:
    return GateError(f"the training diverged at step {step}; try a learning rate below {learning_rate}")


def _set_trainable(network: Network, config: BaseConfig) -> None:
    """Makes all blocks but the frozen ones trainable; pretrained weights keep their BatchNorm statistics."""
    blocks = network.blocks()
    if config.frozen_blocks > len(blocks):
        raise ConfigError(
            f"{config.architecture} has {len(blocks)} blocks, so {config.frozen_blocks} cannot be frozen"
        )
    network.train(mode=not (config.weights or config.checkpoint)).requires_grad_(True)
    if config.rotations and config.frozen_blocks == len(blocks):
        raise ConfigError(
            "rotations train the backbone, but all of its blocks are frozen; freeze fewer of them"
        )
    for block in blocks[: config.frozen_blocks]:
        block.eval().requires_grad_(False)


def _one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Returns the learning rate as a share of its peak: it rises linearly, then falls along a cosine."""
    if progress < warm_up:
        return (progress + 0.01) / (warm_up + 0.01)
    return (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2

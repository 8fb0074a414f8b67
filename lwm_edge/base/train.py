"""Trains a vendor's base: a whole network, on all its classes."""

from __future__ import annotations

import math
import time

import torch

from ..errors import ConfigError, GateError
from ..learning.batches import epoch_batches
from ..learning.losses import classification_loss
from ..learning.optimizer import all_finite
from ..learning.reports import TrainingReport
from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..records import Progress, ProgressCallback
from .config import BaseConfig
from .rotations import RotationTask

_MAX_GRADIENT_NORM = 5.0


def train_base(
    network: Network, photos: PhotoSet, config: BaseConfig, on_progress: ProgressCallback
) -> TrainingReport:
    """Trains a whole network by one-cycle SGD on L_C and, with `rotations`, on a second task."""
    device = network.head.weight.device
    steps_per_epoch = max(1, len(photos.photos) // config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    peak = config.learning_rate or (0.01 if config.weights or config.checkpoint else 0.05)
    labels = torch.tensor(photos.labels, device=device)
    _set_trainable(network, config)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rotation_task = None
    if config.rotations:
        d = network.attention_weight.shape[1]
        rotation_task = RotationTask(d, network.classes, config.seed).to(device)
        parameters += rotation_task.parameters()
    optimizer = torch.optim.SGD(
        parameters,
        lr=1.0,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    step, started, epoch_loss = 0, time.monotonic(), 0.0

    for epoch in range(config.epochs):
        epoch_loss = 0.0
        # The last, smaller batch is left out: it may have too few images for BatchNorm.
        batches = list(epoch_batches(len(photos.photos), config.batch_size, config.seed, epoch))
        for batch in batches[:steps_per_epoch]:
            for group in optimizer.param_groups:
                group["lr"] = peak * _one_cycle(step / total_steps)
            images, of_batch = torch.from_numpy(photos.load(batch, epoch)).to(device), labels[batch]
            if rotation_task:
                images, rotated = rotation_task.with_rotated(images, of_batch)
            features, logits = network(images)
            loss = L_C = classification_loss(logits[: len(batch)], of_batch, 0, config.activation)
            if rotation_task:
                loss = L_C + rotation_task.loss(features, rotated)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            step += 1
            norm = torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            if not all_finite([loss, norm]):
                raise _diverged(step, peak)
            optimizer.step()
            epoch_loss += L_C.item() / steps_per_epoch
            on_progress(Progress(phase="train", done=step, total=total_steps, loss=loss.item()))

    if not all_finite([*network.parameters(), *network.buffers()]):  # there is no later loss to show it
        raise _diverged(step, peak)
    network.eval().requires_grad_(False)
    seconds = time.monotonic() - started
    return TrainingReport(
        epochs=config.epochs,
        steps=step,
        classification_loss=epoch_loss,
        distillation_loss=None,
        attention_distillation_loss=None,
        step_ms=1000 * seconds / step,
        seconds=seconds,
    )


def _diverged(step: int, learning_rate: float) -> GateError:
    return GateError(f"the training diverged at step {step}; try a learning rate below {learning_rate}")


def _set_trainable(network: Network, config: BaseConfig) -> None:
    """Makes all but frozen blocks trainable; weights learnt elsewhere keep their BatchNorm statistics."""
    blocks = network.blocks()
    if config.frozen_blocks > len(blocks):
        raise ConfigError(
            f"{config.architecture} has {len(blocks)} blocks; {config.frozen_blocks} cannot be frozen"
        )
    network.train(mode=not (config.weights or config.checkpoint)).requires_grad_(True)
    if config.rotations and config.frozen_blocks == len(blocks):
        raise ConfigError(
            "rotations teach the backbone, but all of its blocks are frozen; leave out one or the other"
        )
    for block in blocks[: config.frozen_blocks]:
        block.eval().requires_grad_(False)


def _one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Returns the learning rate as a share of its peak: linear up, then a cosine down."""
    if progress < warm_up:
        return (progress + 0.01) / (warm_up + 0.01)
    return (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2

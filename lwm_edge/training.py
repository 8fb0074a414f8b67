"""The training loop of Learning without Memorizing (Dhar et al. 2019).

    L = L_C + beta * L_D + gamma * L_AD

from one frozen teacher, on photos of the new classes alone. It knows no paths and no files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .attention import attention_map
from .class_statistics import Features, Labels
from .config import Device, IncrementConfig, Recipe
from .errors import ConfigError, GateError
from .losses import attention_distillation_loss, classification_loss, distillation_loss
from .manifest import Activation
from .network import Network
from .photos import AS_THEY_ARE, PhotoSet
from .reports import Progress, ProgressCallback, TrainingReport


class Losses(NamedTuple):
    """The three terms before weighting; a term that is off is None.

    Attributes:
        classification: L_C, scalar.
        distillation: L_D, scalar.
        attention_distillation: L_AD, scalar.
    """

    classification: Tensor
    distillation: Tensor | None
    attention_distillation: Tensor | None

    def total(self, beta: float, gamma: float) -> Tensor:
        """L = L_C + beta * L_D + gamma * L_AD (eq. 5)."""
        loss = self.classification
        if self.distillation is not None:
            loss = loss + beta * self.distillation
        if self.attention_distillation is not None:
            loss = loss + gamma * self.attention_distillation
        return loss


def lwm_losses(
    student: Network,
    teacher: Network,
    images: Tensor,
    labels: Tensor,
    *,
    beta: float,
    gamma: float,
    classification: Activation,
) -> Losses:
    """The three terms for a batch. A term whose weight is 0 is not computed.

    Args:
        student: M_t, in eval mode; knows the teacher's N classes and k new ones.
        teacher: M_{t-1}, frozen, in eval mode; knows N classes.
        images: [B, H, W, 3] uint8.
        labels: class_index [B] int64, each >= N.
        beta: Weight of L_D.
        gamma: Weight of L_AD.
        classification: Kind of L_C.
    """
    N = teacher.classes
    features, logits = student(images)
    L_C = classification_loss(logits, labels, N, classification)
    if not beta and not gamma:
        return Losses(L_C, None, None)

    with torch.no_grad():
        teacher_features, teacher_logits = teacher(images)
    L_D = distillation_loss(logits[:, :N], teacher_logits) if beta else None
    L_AD = None
    if gamma:
        b = logits[:, :N].argmax(1)  # the student's best base class; both look for the same one
        Q_student = attention_map(features, student.head_weight, b)
        Q_teacher = attention_map(teacher_features, teacher.head_weight, b)
        L_AD = attention_distillation_loss(Q_student, Q_teacher)
    return Losses(L_C, L_D, L_AD)


def train_increment(
    student: Network,
    teacher: Network,
    photos: PhotoSet,
    config: IncrementConfig,
    recipe: Recipe,
    classification: Activation,
    on_progress: ProgressCallback,
) -> TrainingReport:
    """Teaches the student the new classes; the teacher is not touched.

    Both stay in eval mode: BatchNorm statistics would drift to the new classes, dropout would break the
    attention maps, and an accumulated batch's gradient equals a whole one's only so. Deterministic on a
    CPU for a seed and number of threads.
    """
    device = student.head.weight.device
    beta, gamma = recipe.beta, recipe.gamma
    student.eval().requires_grad_(True)
    student.head.requires_grad_(recipe.head == "trained")
    teacher.eval().requires_grad_(False)
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=config.momentum)
    steps_per_epoch = -(-len(photos.labels) // config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    step, started, photo_labels = 0, time.monotonic(), photos.labels

    for epoch in range(config.epochs):
        epoch_losses = np.zeros(3)
        for batch in epoch_batches(len(photos.labels), config.batch_size, config.seed, epoch):
            batch_loss = 0.0
            for micro_batch in _chunks(batch, config.micro_batch_size):
                images = torch.from_numpy(photos.load(micro_batch, epoch)).to(device)
                labels = torch.tensor([photo_labels[i] for i in micro_batch], device=device)
                losses = lwm_losses(
                    student, teacher, images, labels, beta=beta, gamma=gamma, classification=classification
                )
                loss = losses.total(beta, gamma) * (len(micro_batch) / len(batch))
                loss.backward()  # type: ignore[no-untyped-call]
                batch_loss += loss.item()
                epoch_losses += [len(micro_batch) * t.item() if t is not None else 0.0 for t in losses]
            torch.nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if not math.isfinite(batch_loss):
                raise GateError(
                    f"the loss became {batch_loss} at step {step}; the model is unchanged: "
                    f"try again with a learning rate below {recipe.learning_rate}"
                )
            on_progress(Progress(phase="train", done=step, total=total_steps, loss=batch_loss))

    student.requires_grad_(False)
    seconds = time.monotonic() - started
    L_C, L_D, L_AD = (float(value) for value in epoch_losses / len(photos.labels))
    return TrainingReport(
        epochs=config.epochs,
        steps=step,
        classification_loss=L_C,
        distillation_loss=L_D if beta else None,
        attention_distillation_loss=L_AD if gamma else None,
        step_ms=1000 * seconds / step,
        seconds=seconds,
    )


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """The photos' indices in the epoch's order, a batch at a time; keyed by seed and epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return _chunks([int(i) for i in order], batch_size)


def _chunks(indices: list[int], size: int) -> Iterator[list[int]]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


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


def pooled_features(network: Network, photos: PhotoSet, batch_size: int) -> Features:
    """Globally averaged feature maps of the photos as they are [M, d] float64."""
    pooled = [features.mean((2, 3)).cpu().numpy() for features, _ in run_network(network, photos, batch_size)]
    return np.concatenate(pooled).astype(np.float64)


@torch.no_grad()
def run_network(network: Network, photos: PhotoSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and logits of the photos as they are, a batch at a time, without augmentation."""
    device = network.head.weight.device
    for batch in _chunks(list(range(len(photos.labels))), batch_size):
        yield network(torch.from_numpy(photos.load(batch, AS_THEY_ARE)).to(device))

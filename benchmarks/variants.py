"""Changes the loop and the solved head, in this process alone, in ways that the package does not offer.

The sweep finds out which of these changes would be worth offering.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lwm_edge.learning import batches, discriminant, losses, optimizer, step, training
from lwm_edge.learning.attention import attention_map, grad_cam
from lwm_edge.learning.batches import Batch
from lwm_edge.learning.config import IncrementConfig, Recipe
from lwm_edge.model.network import Network
from lwm_edge.model.precision import autocast
from lwm_edge.photos.photo_set import PhotoSet
from lwm_edge.records import Settings

_SEVERAL = 3


class Variant(Settings):
    """Says how learning differs from the package's; with the defaults, they are the same."""

    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of both learning rates: constant, or falling to 0 along half a cosine."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of all trained parameters."""
    batch_norm: Literal["affine", "frozen", "trained", "followed"] = "affine"
    """Changing parts of BatchNorm: its weights and biases, nothing, or its weights, biases and statistics.

    With `trained`, the student normalises by the statistics of the batch while it learns. With `followed`, it
    normalises by the statistics that it keeps, and these follow the batches after each update. So the loss of
    an image depends on no other image of its batch.
    """
    warm_up: float = Field(default=0.0, ge=0, le=1)
    """Share of the updates over which gamma rises from 0."""
    distance: Literal["l1", "l2"] = "l1"
    """Distance between two maps in L_AD, each divided by its L2 norm."""
    block: int | None = None
    """Index of the block from whose output the maps of L_AD are made; None for the last."""
    compared: Literal["student", "teacher", "three"] = "student"
    """Base class for which maps are compared: the student's best, the teacher's best, or the student's best
    three.
    """
    prior: Literal["own", "equal"] = "own"
    """Variance of the imagined photos in `discriminant.shrink`: each group's own if photos are few, or equal.

    It applies to heads that increments solve, not to the one that the base ships with.
    """


@contextmanager
def applied(variant: Variant) -> Iterator[None]:
    """Makes increments in this process train as the variant says."""
    with ExitStack() as stack:
        if variant.prior == "equal":
            mixed = discriminant._shrinkage
            stack.enter_context(patch.object(discriminant, "_shrinkage", lambda *given: mixed(*given[:2], 0)))
        if variant != Variant():
            loop = _Loop(variant)
            stack.enter_context(
                patch.multiple(
                    training,
                    loaded_batches=loop.loaded_batches,
                    trained_parameters=loop.trained_parameters,
                    MomentumSGD=loop.optimizer,
                )
            )
            stack.enter_context(patch.multiple(step, _accumulate=loop.accumulate, lwm_losses=loop.losses))
        yield


class _Loop:
    """Replaces functions that `train_increment` and the plan call."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.progress = 0.0  # share of the updates that have been made
        self._student: Network | None = None
        self._maps: dict[Network, Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self._observed: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}
        self._losses, self._accumulate = step.lwm_losses, step._accumulate
        self._trained_parameters = training.trained_parameters

    def loaded_batches(self, photos: PhotoSet, config: IncrementConfig, *rest: Any) -> Iterator[Batch]:
        """Yields the batches, and notes the training's progress."""
        total = config.epochs * -(-len(photos.photos) // config.batch_size)
        for batch in batches.loaded_batches(photos, config, *rest):
            self.progress = batch.step / total
            yield batch
        if self._student:
            self._student.eval()  # after the last update
        while self._hooks:
            self._hooks.pop().remove()

    def trained_parameters(self, student: Network, recipe: Recipe) -> dict[str, nn.Parameter]:
        """Selects the trained parameters, and sets up the student's BatchNorm as the variant says."""
        parameters = self._trained_parameters(student, recipe)
        trained = student.blocks()[student.frozen_blocks :]
        for norm in (m for block in trained for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
            if self.variant.batch_norm == "frozen":
                norm.requires_grad_(False)
            elif self.variant.batch_norm != "affine":
                for name, buffer in list(norm.named_buffers()):
                    setattr(norm, name, buffer.clone())  # until now shared with the teacher
                norm.train(self.variant.batch_norm == "trained")
                if self.variant.batch_norm == "followed":
                    self._hooks.append(norm.register_forward_pre_hook(self._observe))
        return {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}

    def _observe(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        """Notes the mean and variance of a batch, as long as the student learns."""
        if torch.is_grad_enabled():
            x = inputs[0].detach().float()
            self._observed[norm] = x.mean((0, 2, 3)), x.var((0, 2, 3))

    def follow(self) -> None:
        """Moves the kept statistics of BatchNorm a little towards those of the last batch."""
        for norm, (mean, variance) in self._observed.items():
            assert norm.running_mean is not None and norm.running_var is not None and norm.momentum
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance, norm.momentum)
        self._observed.clear()

    def optimizer(self, parameters: Mapping[str, nn.Parameter]) -> _Optimizer:
        """Makes an optimiser that follows the schedule and decays weights."""
        return _Optimizer(parameters, self)

    def accumulate(
        self, student: Network, teacher: Network, batch: Batch, parts: Any, recipe: Recipe, *rest: Any
    ) -> Any:
        """Adds up the gradients of an update, or of the plan's trial step, with gamma's current value."""
        self._student = student
        if self.variant.warm_up:
            recipe = recipe._replace(gamma=recipe.gamma * min(1.0, self.progress / self.variant.warm_up))
        with ExitStack() as hooks:
            for network in (student, teacher) if self.variant.block is not None else ():
                hooks.enter_context(self._watched(network))
            return self._accumulate(student, teacher, batch, parts, recipe, *rest)

    @contextmanager
    def _watched(self, network: Network) -> Iterator[None]:
        """Keeps the latest output of the block whose maps are compared."""

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._maps[network] = output

        assert self.variant.block is not None
        handle = network.blocks()[self.variant.block].register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()
            self._maps.clear()

    def losses(self, student: Network, teacher: Network, *outputs: Any, gamma: float, **rest: Any) -> Any:
        """Computes the three terms of the loss, with L_AD as the variant says."""
        found = self._losses(student, teacher, *outputs, gamma=0.0, **rest)
        if not gamma:
            return found
        of_student, of_teacher, _ = outputs
        scores = of_teacher[1] if self.variant.compared == "teacher" else of_student[1][:, : teacher.classes]
        best = scores.topk(_SEVERAL if self.variant.compared == "three" else 1).indices
        distances = [
            self._distance(self._map(student, of_student[0], b), self._map(teacher, of_teacher[0], b))
            for b in best.T
        ]
        return found._replace(attention_distillation=torch.stack(distances).mean())

    def _map(self, network: Network, features: Tensor, b: Tensor) -> Tensor:
        if self.variant.block is None:
            return attention_map(features, network.attention_weight, b)
        maps, learns = self._maps[network], network is self._student
        with torch.enable_grad():
            if not learns:  # the teacher ran without a graph
                features = maps = maps.detach().requires_grad_()
                for block in network.blocks()[self.variant.block + 1 :]:
                    with autocast(network.precision, features.device):
                        features = block(features)
            scores = (features.float().mean((2, 3)) * network.attention_weight[b]).sum(1)
            return grad_cam(maps, scores, create_graph=learns).float()

    def _distance(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        if self.variant.distance == "l1":
            return losses.attention_distillation_loss(student_map, teacher_map)
        student, teacher = (F.normalize(q.flatten(1), dim=1) for q in (student_map, teacher_map.detach()))
        return (student - teacher).square().sum(1).add(1e-12).sqrt().mean()


class _Optimizer(optimizer.MomentumSGD):
    """Updates parameters as the package does, with a schedule and weight decay."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], loop: _Loop) -> None:
        super().__init__(parameters)
        self._loop = loop

    @torch.no_grad()
    def update(self, learning_rates: Mapping[str, float], momentum: float, scale: float) -> None:
        """Moves the parameters, and decays them without clipping the decay."""
        variant, factor = self._loop.variant, 1.0
        if variant.schedule == "cosine":
            factor = (1 + math.cos(math.pi * self._loop.progress)) / 2
        for parameter in self._parameters.values():
            if variant.weight_decay and parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=variant.weight_decay / scale)
        rates = {name: factor * rate for name, rate in learning_rates.items()}
        super().update(rates, momentum, scale)
        self._loop.follow()

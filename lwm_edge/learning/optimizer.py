"""Stochastic gradient descent with momentum, with tensors that a resumed training can take up again.

torch.optim's does the same, and importing it costs 70 MiB for a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Momentum:
    """The momentum v of each parameter.

    v <- momentum * v + gradient;  parameter <- parameter - learning_rate * v

    Args:
        parameters: What to train, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors of parameters and momenta, each under a name of its own."""
        return {f"parameter.{name}": tensor.detach() for name, tensor in self._parameters.items()} | {
            f"momentum.{name}": tensor for name, tensor in self._momenta.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the values of an earlier `tensors`."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def forget_gradients(self) -> None:
        """Gives up what was accumulated since the last update."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def update(self, learning_rates: Mapping[str, float], momentum: float, max_gradient_norm: float) -> None:
        """Moves the parameters that have a gradient, and frees each gradient as it is applied.

        Args:
            learning_rates: Of each parameter, by name.
            momentum: What stays of v.
            max_gradient_norm: All gradients together are cut to this norm. BatchNorm is frozen, so nothing
                else keeps a step short.
        """
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
        scale = max_gradient_norm / norm if norm > max_gradient_norm else 1.0
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                v = self._momenta[name].mul_(momentum).add_(parameter.grad, alpha=scale)
                parameter.grad = None
                parameter.sub_(v, alpha=learning_rates[name])

"""Implements stochastic gradient descent with momentum; its state can be restored when training resumes.

`torch.optim` offers this too, but also loads a compiler, which takes 70 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class MomentumSGD:
    """Updates parameters by stochastic gradient descent, and keeps the momentum v of each.

    v = momentum * v + gradient;  parameter = parameter - learning_rate * v

    Args:
        parameters: Parameters to train, by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Returns the parameters and momenta by name; these tensors change with every update."""
        return {f"parameter.{name}": tensor.detach() for name, tensor in self._parameters.items()} | {
            f"momentum.{name}": tensor for name, tensor in self._momenta.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the values that an earlier call to `tensors` returned."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def forget_gradients(self) -> None:
        """Discards the gradients that were accumulated since the last update."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """Computes the norm of all gradients together, which is not finite if any gradient is not."""
        norms = [p.grad.norm() for p in self._parameters.values() if p.grad is not None]
        return float(torch.stack(norms).norm())

    @torch.no_grad()
    def update(self, learning_rates: Mapping[str, float], momentum: float, scale: float) -> None:
        """Updates the parameters that have a gradient, and frees each gradient once it is applied.

        Args:
            learning_rates: Learning rate of each parameter, by name.
            momentum: Share of v that is kept.
            scale: Factor by which all gradients are multiplied.
        """
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                v = self._momenta[name].mul_(momentum).add_(parameter.grad, alpha=scale)
                parameter.grad = None
                parameter.sub_(v, alpha=learning_rates[name])


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Tells whether every value of these tensors is finite, that is, neither infinite nor NaN."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)

"""Implements stochastic gradient descent with momentum; its state can be restored when training resumes.

`torch.optim` offers this too, but also loads a compiler, which takes 70 MiB. As `torch.optim` does, this
module hands torch whole lists of tensors: a GPU takes longer for a call than for most tensors.
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
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        return float(torch.stack(torch._foreach_norm(gradients)).norm())

    @torch.no_grad()
    def update(self, learning_rates: Mapping[str, float], momentum: float, scale: float) -> None:
        """Updates the parameters that have a gradient, and frees the gradients.

        Args:
            learning_rates: Learning rate of each parameter, by name.
            momentum: Share of v that is kept.
            scale: Factor by which all gradients are multiplied.
        """
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        v = {name: self._momenta[name] for name in gradients}
        torch._foreach_mul_([*v.values()], momentum)
        torch._foreach_add_([*v.values()], [*gradients.values()], alpha=scale)
        del gradients
        self.forget_gradients()
        for rate in {learning_rates[name] for name in v}:
            moved = [name for name in v if learning_rates[name] == rate]
            torch._foreach_sub_([self._parameters[n] for n in moved], [v[n] for n in moved], alpha=rate)


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Tells whether every value of these tensors is finite, that is, neither infinite nor NaN."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)

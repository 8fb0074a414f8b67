"""Counts what one image costs a network, which limits what its ONNX graph may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ..records import Report

if TYPE_CHECKING:
    from .network import Network


class Cost(Report):
    """Holds the cost of running a classifier on one image.

    Attributes:
        operations: Number of multiplications, at least one per element of a layer's output.
        elements: Number of elements in all layers' outputs.
    """

    operations: int = Field(ge=0)
    elements: int = Field(ge=0)


def network_cost(network: Network) -> Cost:
    """Counts what one image costs a network, by running it on a black one."""
    import torch
    from torch import Tensor, nn

    operations = elements = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations, elements
        weights = module.weight[0].numel() if isinstance(module, nn.Conv2d | nn.Linear) else 1
        elements += output.numel()
        operations += output.numel() * weights

    layers = [m for m in network.modules() if [*m.parameters(recurse=False)] or not [*m.children()]]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    size = network.preprocessing.image_size
    try:
        with torch.no_grad():
            network(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=network.head.weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(operations=operations, elements=elements)

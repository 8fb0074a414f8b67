"""Computes a block's activations again in the backward pass instead of keeping them, to save memory.

torch.utils.checkpoint does the same for any function, but it loads torch's compiler. With only a few images
at a time, the 70 MiB that the compiler takes is more than the recomputation saves. See Chen et al. 2016,
"Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .precision import autocast
from .terms import Precision


def recomputed(
    block: nn.Module,
    activations: Tensor,
    *,
    precision: Precision = "float32",
    on_a_copy: bool = False,
) -> Tensor:
    """Computes the block's output as `block(activations)` does, with the same gradients.

    Args:
        block: Block whose parameters are trained; it must be in eval mode and draw no random numbers.
        activations: Input of the block, which is left unchanged.
        precision: Precision in which the block computes, both times.
        on_a_copy: Whether the block gets a copy each time, because it writes to its input.
    """
    parameters = [parameter for parameter in block.parameters() if parameter.requires_grad]

    def run(maps: Tensor) -> Tensor:
        """Runs the block on maps, in the given precision."""
        with autocast(precision, maps.device):
            return cast(Tensor, block(maps.clone() if on_a_copy else maps))

    return cast(Tensor, _Recomputed.apply(run, activations, *parameters))  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    """Recomputes a block; its parameters are arguments only so that the output depends on them."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Tensor], Tensor], activations: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Runs the block without keeping its inner activations, only its input."""
        ctx.run = run
        ctx.save_for_backward(activations)
        return run(activations)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Runs the block again with gradients, and returns the gradient of its input."""
        (activations,) = ctx.saved_tensors
        activations = activations.detach().requires_grad_(ctx.needs_input_grad[1])
        with torch.enable_grad():
            product = (ctx.run(activations) * gradient).sum()
        # If autograd.backward were given the gradient instead of this product, it would load the compiler.
        torch.autograd.backward(product)  # adds to the parameters' gradients one by one
        return None, activations.grad, *[None] * (len(ctx.needs_input_grad) - 2)

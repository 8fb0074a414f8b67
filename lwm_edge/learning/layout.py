"""Keeps convolution kernels in channels-last layout during training, to match the feature maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..model.network import Network
from ..model.terms import Precision

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextmanager
def channels_last(student: Network, teacher: Network, precision: Precision, on: bool) -> Iterator[None]:
    """Keeps channels-last copies of the kernels for the duration of the `with` block, if `on` is set.

    Otherwise torch makes such copies for every convolution, since the maps are channels-last. The teacher's
    copies, which do not change, are in the given precision. Afterwards the teacher has the kernels that it
    had before, and the student's have the usual layout again, in which files store them.
    """
    teachers = {id(kernel): kernel for kernel in _kernels(teacher)}
    students = [kernel for kernel in _kernels(student) if id(kernel) not in teachers]
    before = [(kernel, kernel.data) for kernel in teachers.values()]
    if on:
        for kernel in teachers.values():
            kernel.data = kernel.data.to(_DTYPES[precision], memory_format=torch.channels_last)
        for kernel in students:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for kernel, data in before:
            kernel.data = data
        for kernel in students:
            kernel.data = kernel.data.contiguous()


def _kernels(network: Network) -> list[Tensor]:
    """Lists the kernels of torch's own convolutions; others may need the usual layout, or full precision."""
    return [module.weight for module in network.modules() if type(module) is nn.Conv2d]

"""Kernels whose channels are last in memory make training faster, and change nothing else."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lwm_edge.learning.batches import Batch
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.layout import channels_last
from lwm_edge.learning.step import accumulate_gradients
from lwm_edge.learning.training import trained_parameters
from lwm_edge.model.network import Network
from lwm_edge.model.terms import Precision
from tests.support.networks import PREPROCESSING, disturb, teacher_and_student
from tests.support.samples import batch_of, photo_set


def _pair(frozen_blocks: int = 0) -> tuple[Network, Network]:
    teacher, _ = teacher_and_student()
    teacher.freeze(frozen_blocks)
    student = teacher.student(trains=True)
    student.add_classes(2, torch.Generator().manual_seed(0))
    disturb(student)
    return teacher, student


def _kernels(network: Network) -> list[torch.nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.dim() == 4]


def _gradients(precision: Precision, frozen_blocks: int, on: bool) -> list[Tensor]:
    teacher, student = _pair(frozen_blocks)
    parameters = trained_parameters(student, RECIPES["lwm"])
    images, _ = batch_of(photo_set("1", first_label=6))
    batch = Batch(0, [6] * len(images), images.numpy())
    with channels_last(student, teacher, precision, on):
        accumulate_gradients(student, teacher, batch, len(images), RECIPES["lwm"], "sigmoid", precision)
    return [parameter.grad for parameter in parameters.values() if parameter.grad is not None]


@pytest.mark.parametrize("frozen_blocks", [0, 4])
@pytest.mark.parametrize(("precision", "rounding"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_gradients_are_the_same_but_for_rounding(
    precision: Precision, rounding: float, frozen_blocks: int
) -> None:
    usual, fast = (_gradients(precision, frozen_blocks, on) for on in (False, True))
    assert len(usual) == len(fast) > 4
    for first, second in zip(usual, fast, strict=True):
        assert float((first - second).norm()) <= rounding * float(first.norm())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_teacher_gets_its_own_memory_back_and_the_student_the_usual_layout(precision: Precision) -> None:
    teacher, student = _pair(frozen_blocks=4)
    teachers = [kernel.data_ptr() for kernel in _kernels(teacher)]
    students = [kernel.detach().clone() for kernel in _kernels(student)]
    with pytest.raises(KeyboardInterrupt), channels_last(student, teacher, precision, True):
        for kernel in (*_kernels(teacher), *_kernels(student)):
            assert kernel.is_contiguous(memory_format=torch.channels_last)
        assert {kernel.dtype for kernel in _kernels(teacher)} == {getattr(torch, precision)}
        raise KeyboardInterrupt  # as an owner may
    assert [kernel.data_ptr() for kernel in _kernels(teacher)] == teachers
    for kernel, before in zip(_kernels(student), students, strict=True):
        assert kernel.is_contiguous() and torch.equal(kernel, before)


def test_what_is_trained_stays_in_float32() -> None:
    teacher, student = _pair()
    with channels_last(student, teacher, "bfloat16", True):
        assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_nothing_is_copied_unless_asked_for() -> None:
    teacher, student = _pair()
    before = [kernel.data_ptr() for kernel in (*_kernels(teacher), *_kernels(student))]
    with channels_last(student, teacher, "float32", False):
        assert [kernel.data_ptr() for kernel in (*_kernels(teacher), *_kernels(student))] == before


class _Standardised(nn.Conv2d):
    """Computes its kernel from the parameter, as a vendor's own convolution may."""

    def forward(self, maps: Tensor) -> Tensor:
        spread = self.weight.view(len(self.weight), -1).std(1).view(-1, 1, 1, 1)
        return self._conv_forward(maps, self.weight / spread, self.bias)


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.factors


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("own", [_Standardised(8, 8, 3, padding=1), _Scaled()])
def test_a_vendors_own_modules_compute_the_same_in_teacher_and_student(
    own: nn.Module, precision: Precision
) -> None:
    backbone = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 8, 3, 4), own=own, last=nn.Conv2d(8, 8, 3)))
    teacher = Network(backbone, nn.Linear(8, 8), 4, PREPROCESSING).eval().requires_grad_(False)
    student, recipe = teacher.student(trains=True), RECIPES["lwm"]
    student.add_classes(1, torch.Generator().manual_seed(0))
    trained_parameters(student, recipe)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    with channels_last(student, teacher, precision, True):
        losses = accumulate_gradients(
            student, teacher, Batch(0, [4, 4], pixels), 2, recipe, "sigmoid", precision
        )
    assert losses[2] == 0  # L_AD of two networks that differ only in the number of classes

"""Kernels whose channels are last in memory make training faster, and change nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lwm_edge.learning.batches import Batch
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.layout import channels_last
from lwm_edge.learning.step import accumulate_gradients
from lwm_edge.learning.training import trained_parameters
from lwm_edge.model.network import Network
from lwm_edge.model.terms import Precision
from tests.support.networks import disturb, teacher_and_student
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

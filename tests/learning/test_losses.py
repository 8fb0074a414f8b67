"""Each loss agrees with values computed by hand; attention distillation also stays within its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lwm_edge.learning.losses import attention_distillation_loss, classification_loss, distillation_loss


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_classification_loss_by_hand() -> None:
    logits = torch.tensor([[5.0, 1.0, -2.0], [5.0, 0.5, 3.0]])  # one base class, two new ones
    labels = torch.tensor([1, 2])
    first = -_log_sigmoid(1.0) - _log_sigmoid(2.0)  # raises the label's output, and lowers the other one
    second = -_log_sigmoid(-0.5) - _log_sigmoid(3.0)
    assert classification_loss(logits, labels, 1, "sigmoid").item() == pytest.approx((first + second) / 2)


def test_softmax_classification_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    expected = -2 + math.log(1 + math.e + math.e**2)
    assert classification_loss(logits, torch.tensor([2]), 1, "softmax").item() == pytest.approx(expected)


def test_the_sigmoid_classification_loss_ignores_base_outputs() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    classification_loss(logits, torch.tensor([3, 4, 3, 4]), 3, "sigmoid").backward()
    assert logits.grad is not None
    assert logits.grad[:, :3].abs().sum() == 0 and logits.grad[:, 3:].abs().min() > 0


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_a_single_new_class_has_a_classification_loss(kind: str) -> None:
    logits = torch.zeros(2, 4, requires_grad=True)
    loss = classification_loss(logits, torch.tensor([3, 3]), 3, kind)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() > 0
    assert logits.grad is not None and logits.grad[:, 3].abs().min() > 0


def test_distillation_loss_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 2.0]])
    p = 1 / (1 + math.exp(-2.0))
    expected = -(0.5 * _log_sigmoid(1.0) + 0.5 * _log_sigmoid(-1.0))
    expected += -(p * _log_sigmoid(-1.0) + (1 - p) * _log_sigmoid(1.0))
    assert distillation_loss(student, teacher).item() == pytest.approx(expected)


def test_distillation_has_its_minimum_at_agreement() -> None:
    teacher = torch.randn(3, 4, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    distillation_loss(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-15
    assert distillation_loss(teacher + 0.1, teacher) > distillation_loss(teacher, teacher)


def test_attention_distillation_loss_by_hand() -> None:
    student = torch.tensor([[[3.0, 4.0]]])  # normalised: 0.6, 0.8
    teacher = torch.tensor([[[0.0, 7.0]]])  # normalised: 0, 1
    assert attention_distillation_loss(student, teacher).item() == pytest.approx(0.6 + 0.2)


def test_attention_distillation_averages_over_images() -> None:
    student, teacher = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    each = [attention_distillation_loss(student[i : i + 1], teacher[i : i + 1]).item() for i in range(3)]
    assert attention_distillation_loss(student, teacher).item() == pytest.approx(sum(each) / 3, rel=1e-5)


maps = st.integers(1, 7).flatmap(
    lambda side: st.lists(st.floats(0, 100, width=32), min_size=2 * side**2, max_size=2 * side**2).map(
        lambda values: torch.tensor(values, dtype=torch.float64).reshape(2, 1, side, side)
    )
)


@given(maps)
@settings(max_examples=200, deadline=None)
def test_attention_distillation_is_bounded_and_zero_for_equal_maps(pair: Tensor) -> None:
    student, teacher = pair
    loss = attention_distillation_loss(student, teacher).item()
    assert 0 <= loss <= math.sqrt(2 * student[0].numel()) * (1 + 1e-12)
    assert attention_distillation_loss(teacher, teacher).item() == 0


@pytest.mark.parametrize(("student", "teacher"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_map_of_zeros_gives_finite_loss_and_gradient(student: float, teacher: float) -> None:
    student_map = torch.full((1, 4, 4), student, requires_grad=True)
    loss = attention_distillation_loss(torch.relu(student_map), torch.full((1, 4, 4), teacher))
    loss.backward()
    assert math.isfinite(loss.item())
    assert student_map.grad is not None and student_map.grad.isfinite().all()


def test_no_gradient_flows_to_the_teacher() -> None:
    teacher_logits, teacher_map = (
        torch.randn(2, 3, requires_grad=True),
        torch.rand(2, 4, 4, requires_grad=True),
    )
    student_map = torch.rand(2, 4, 4, requires_grad=True)
    loss = distillation_loss(torch.randn(2, 3, requires_grad=True), teacher_logits)
    (loss + attention_distillation_loss(student_map, teacher_map)).backward()
    assert teacher_logits.grad is None and teacher_map.grad is None

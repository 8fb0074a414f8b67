"""The closed form equals Grad-CAM by autograd: in value for every architecture, in gradient for one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lwm_edge.learning.attention import attention_map, grad_cam
from lwm_edge.model.network import Network
from tests.support.networks import ARCHITECTURES, fresh_network, network_with_levels, teacher_and_student
from tests.support.samples import batch_of, photo_set


def _maps(network: Network, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features, logits = network(images)
    b = logits.argmax(1)
    closed = attention_map(features, network.attention_weight, b)
    scores = logits.gather(1, b[:, None]).squeeze(1)
    return features, closed, grad_cam(features, scores, create_graph=True)


def test_a_hand_computed_map() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -4.0]]]])  # one image, two channels of 1x2 cells
    head_weight = torch.tensor([[9.0, 9.0], [2.0, -1.0]])
    # alpha = W[1] / 2 cells = (1, -0.5); sum = (1 - 1.5, 2 + 2) = (-0.5, 4); ReLU
    assert attention_map(features, head_weight, torch.tensor([1])).tolist() == [[[0.0, 4.0]]]


def test_equals_grad_cam_in_value_and_gradient() -> None:
    images, _ = batch_of(photo_set("base"))
    _, student = teacher_and_student(dtype=torch.float64)
    _, closed, definition = _maps(student, images)
    assert closed.abs().sum() > 0
    torch.testing.assert_close(closed, definition, rtol=1e-6, atol=1e-12)

    weight = torch.rand(closed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = [p for p in student.parameters() if p is not student.head.bias]
    of_closed = torch.autograd.grad((closed * weight).sum(), parameters, retain_graph=True)
    of_definition = torch.autograd.grad((definition * weight).sum(), parameters)
    assert any(gradient.abs().sum() > 0 for gradient in of_closed)
    for ours, theirs in zip(of_closed, of_definition, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_grad_cam_on_every_architecture(name: str) -> None:
    network = fresh_network(name).double()
    network.head.weight.data.abs_()  # with weights of random signs, the features may sum to an empty map
    images = torch.randint(
        0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    _, closed, definition = _maps(network, images)
    assert closed.max() > 0
    torch.testing.assert_close(closed, definition, rtol=1e-6, atol=1e-9 * closed.max().item())


def test_equals_grad_cam_where_the_head_reads_earlier_blocks_too() -> None:
    network = network_with_levels().double()
    network.head.weight.data.abs_()
    images = torch.randint(
        0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    _, closed, definition = _maps(network.requires_grad_(True), images)
    assert closed.max() > 0
    torch.testing.assert_close(closed, definition, rtol=1e-6, atol=1e-9 * closed.max().item())


def test_the_gradient_flows_through_alpha() -> None:
    features = torch.rand(2, 3, 4, 4, requires_grad=False)
    head_weight = torch.rand(5, 3, requires_grad=True)
    attention_map(features, head_weight, torch.tensor([0, 4])).sum().backward()
    assert head_weight.grad is not None
    assert head_weight.grad[[0, 4]].abs().sum(1).min() > 0
    assert head_weight.grad[[1, 2, 3]].abs().sum() == 0


def test_half_precision_features_give_a_float32_map() -> None:
    features = torch.rand(1, 3, 4, 4).bfloat16()
    assert attention_map(features, torch.rand(2, 3), torch.tensor([1])).dtype == torch.float32

from __future__ import annotations

import torch

from lwm_edge.base.rotations import RotationTask
from tests.support.networks import teacher_and_student
from tests.support.samples import batch_of, photo_set


def test_each_photo_appears_upright_and_rotated() -> None:
    images = torch.arange(2 * 3 * 3 * 3).reshape(2, 3, 3, 3)
    labels, seen = torch.tensor([0, 4]), set()
    task = RotationTask(8, classes=5, seed=0)
    for _ in range(20):
        all_images, all_labels = task.with_rotated(images, labels)
        assert torch.equal(all_images[:2], images) and all_labels[:2].tolist() == [0, 16]
        for image, turned, label, own in zip(images, all_images[2:], all_labels[2:], labels, strict=True):
            turns = int(label - 4 * own)
            assert turns in (1, 2, 3) and torch.equal(turned, torch.rot90(image, turns, (0, 1)))
            seen.add(turns)
    assert seen == {1, 2, 3} and task.layer.out_features == 20


def test_the_rotation_loss_reaches_the_first_convolution_and_falls() -> None:
    _, network = teacher_and_student()
    task = RotationTask(64, network.classes, seed=0)
    images, labels = task.with_rotated(*batch_of(photo_set("base", count=4)))
    first, *_ = parameters = [*network.backbone.parameters(), *task.parameters()]
    losses = []
    for _ in range(8):
        features, _ = network(images)
        loss = task.loss(features, labels)
        gradients = torch.autograd.grad(loss, parameters)
        assert gradients[0].abs().sum() > 0 and gradients[0].shape == first.shape
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(0.01 * gradient)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]

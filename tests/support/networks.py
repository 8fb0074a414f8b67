"""Makes, changes and compares small networks for tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lwm_edge import Preprocessing
from lwm_edge.base.choose_levels import find_levels
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.model.architectures.registry import find_architecture
from lwm_edge.model.architectures.surgery import take_apart
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.manifest import Levels, Manifest
from lwm_edge.model.network import Network

COVERED_BY_SIMILAR = {
    "efficientnet_lite1": "efficientnet_lite0 has the same blocks, but fewer",
    "efficientnet_lite2": "efficientnet_lite0 has the same blocks, but fewer and narrower",
    "resnet34": "resnet18 has the same blocks, but fewer",
    "shufflenet_v2_x1_0": "shufflenet_v2_x0_5 has the same blocks, but narrower",
    "small_resnet32": "small_resnet20 has the same blocks, but fewer",
}
"""Architectures that only .ci/extended tries, and the similar ones that the gate tries instead."""

GRAPH_COVERED_BY = {
    "resnet18": "small_resnet20, which model/onnx/test_graph.py traces; shufflenet_v2 for its pooling",
    "resnet50": "resnet18, with one more convolution in each block",
    "mobilenet_v2": "efficientnet_lite0, which base/test_build.py exports, for its blocks and activation",
    "mnasnet0_5": "mobilenet_v2, with another activation",
    "efficientnet_b0": "mobilenet_v3_small for its squeeze and excitation; efficientnet_lite0 for the rest",
    "regnet_y_400mf": "mobilenet_v3_small for its squeeze and excitation",
    "small_resnet20": "model/onnx/test_graph.py traces the demo's base, and many tests export it",
    "efficientnet_lite0": "base/test_build.py exports it",
    "densenet121": "shufflenet_v2 for its concatenations; small_resnet20 for the rest",
}
"""Architectures whose graph only .ci/extended checks, each with those that stand in for it in the gate."""

ARCHITECTURES = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "mnasnet0_5",
    "regnet_y_400mf", "small_resnet20", "efficientnet_lite0", "mobilenet_v3_small", "densenet121",
    *(pytest.param(name, marks=pytest.mark.extended) for name in COVERED_BY_SIMILAR),
)  # fmt: skip
"""Architectures that parametrized tests try."""

PREPROCESSING = Preprocessing(image_size=64, resize_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def teacher_and_student(new_classes: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Network, Network]:
    """Loads the demo's base as the teacher, and a copy with rows for new classes as the student."""
    bundle = open_bundle(BASE_BUNDLE)
    teacher = load_network(bundle)
    student = teacher.student(trains=True).requires_grad_(True)
    student.add_classes(new_classes, torch.Generator().manual_seed(0))
    return teacher.to(dtype), student.to(dtype)


def disturb(network: Network, scale: float = 0.1) -> None:
    """Moves the weights a little, so that a student differs from its teacher."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(scale * parameter.abs().mean() * noise)


def same_tensors(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Returns whether two sets of tensors have the same names and exactly the same values."""
    return first.keys() == second.keys() and all(np.array_equal(first[n], second[n]) for n in first)


def fresh_network(name: str, classes: int = 3, capacity: int = 5) -> Network:
    """Makes an untrained network in eval mode."""
    architecture = find_architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone, head = take_apart(architecture.build(), architecture, name)
    full_head = nn.Linear(head.in_features, capacity)
    nn.init.zeros_(full_head.weight)
    nn.init.zeros_(full_head.bias)
    network = Network(backbone, full_head, 0, PREPROCESSING).eval()
    network.add_classes(classes, torch.Generator().manual_seed(0))
    return network


def manifest_of(name: str, levels: Levels | None = None) -> Manifest:
    """Makes the manifest of a bundle with three classes and room for five."""
    return Manifest(
        architecture=name,
        preprocessing=PREPROCESSING,
        activation="sigmoid",
        levels=levels,
        class_names=("a", "b", "c"),
        shipped_classes=3,
        capacity=5,
        bundle_bytes=0,
        recipe="base",
        tensors_digest="0" * 64,
    )


def network_with_levels(name: str = "small_resnet20", grid: int = 2) -> Network:
    """Makes an untrained network whose head reads earlier blocks with weights that are not 0."""
    network = fresh_network(name)
    levels = find_levels(network, grid)
    assert levels is not None
    network.read_levels(levels)
    generator = torch.Generator().manual_seed(2)
    network.head.weight[:3, : levels.values] = torch.rand(3, levels.values, generator=generator)
    return network

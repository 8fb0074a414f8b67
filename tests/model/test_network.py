from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lwm_edge import Architecture
from lwm_edge.base.choose_levels import find_levels
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ArchitectureError
from lwm_edge.freed_memory import drop_mapped_pages
from lwm_edge.learning.batches import Batch
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.step import accumulate_gradients
from lwm_edge.learning.training import trained_parameters
from lwm_edge.model import loading
from lwm_edge.model.architectures.registry import architecture_names, find_architecture
from lwm_edge.model.architectures.surgery import check_surgery, take_apart
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import empty_network, load_network, load_tensors
from lwm_edge.model.manifest import Levels
from lwm_edge.model.network import Network, few_cells_warnings
from lwm_edge.model.onnx.parity import generated_images
from tests.support import networks
from tests.support.networks import (
    ARCHITECTURES,
    PREPROCESSING,
    fresh_network,
    manifest_of,
    network_with_levels,
)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_added_classes_leave_the_earlier_logits_as_they_were(name: str) -> None:
    network = fresh_network(name)
    images = torch.from_numpy(generated_images(64)[:2])
    with torch.no_grad():
        features, logits = network(images)
        network.add_classes(2, torch.Generator().manual_seed(1))
        _, grown = network(images)
    assert features.dim() == 4 and features.shape[1] == network.head.in_features
    assert logits.shape == (2, 3) and grown.shape == (2, 5)
    # a product of another shape may be summed in another order
    torch.testing.assert_close(grown[:, :3], logits, rtol=1e-4, atol=1e-4 * logits.abs().max().item())
    assert network.head.weight.shape[0] == 5


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_that_is_taken_apart_computes_the_same(name: str) -> None:
    architecture = find_architecture(name)
    model = architecture.build()
    backbone, head = take_apart(model, architecture, name)
    check_surgery(model, backbone, head, name)


@pytest.mark.parametrize("name", ["small_resnet20", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_an_empty_network_takes_tensors_without_copying(name: str) -> None:
    source = fresh_network(name)
    tensors = source.state_dict()
    network = load_tensors(empty_network(manifest_of(name)), tensors)
    images = torch.from_numpy(generated_images(64)[:1])
    assert torch.equal(network(images)[1], source(images)[1])
    assert network.head.weight.data_ptr() == tensors["head.weight"].data_ptr()


def test_every_wrong_tensor_is_listed() -> None:
    tensors = dict(fresh_network("small_resnet20").state_dict())
    tensors["planted"] = torch.zeros(1)
    tensors["head.bias"] = tensors["head.bias"].double()
    del tensors["backbone.stem.0.weight"]
    with pytest.raises(ArchitectureError) as caught:
        load_tensors(empty_network(manifest_of("small_resnet20")), tensors)
    assert len(caught.value.problems) == 3
    assert "planted is unknown" in caught.value.problems


def test_equal_seeds_give_equal_rows_and_unused_rows_are_zero() -> None:
    first, second = fresh_network("small_resnet20"), fresh_network("small_resnet20")
    assert torch.equal(first.head.weight, second.head.weight)
    assert first.head.weight[3:].abs().sum() == 0


@pytest.mark.parametrize("name", ["vgg11", "squeezenet1_0", "convnext_tiny", "no_such_net"])
def test_a_refusal_of_an_architecture_names_those_that_fit(name: str) -> None:
    with pytest.raises(ArchitectureError, match=r"choose one of: .*resnet18"):
        find_architecture(name)


class VendorNet(nn.Module):
    """Stands in for a vendor's own network: convolution, average pooling, one linear layer."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.extra = extra or nn.Identity()
        self.top = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.top(self.extra(self.body(images).mean((2, 3))))  # type: ignore[no-any-return]


VENDOR = Architecture(build=VendorNet, features=("body",), head="top", preprocessing=PREPROCESSING)


def test_a_vendors_network_is_found_through_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("vendor_net", "tests.model.test_network:VENDOR", "lwm_edge.architectures")
    monkeypatch.setattr(metadata, "entry_points", lambda **kw: _selected([entry], kw))
    assert find_architecture("vendor_net") is VENDOR
    assert "vendor_net" in architecture_names()
    model = VENDOR.build()
    check_surgery(model, *take_apart(model, VENDOR, "vendor_net"), "vendor_net")


def _selected(entries: list[metadata.EntryPoint], wanted: dict[str, Any]) -> metadata.EntryPoints:
    return metadata.EntryPoints(entries).select(**wanted)


@pytest.mark.parametrize(("value", "reason"), [("tests.nowhere:X", "cannot be loaded"), ("math:pi", "is no")])
def test_a_broken_entry_point_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str, reason: str) -> None:
    entry = metadata.EntryPoint("broken", value, "lwm_edge.architectures")
    monkeypatch.setattr(metadata, "entry_points", lambda **kw: _selected([entry], kw))
    with pytest.raises(ArchitectureError, match=reason):
        find_architecture("broken")


def test_a_layer_between_pooling_and_head_is_found() -> None:
    model = VendorNet(extra=nn.LayerNorm(8))
    with pytest.raises(ArchitectureError, match="computes something else"):
        check_surgery(model, *take_apart(model, VENDOR, "vendor_net"), "vendor_net")


def test_missing_parts_are_all_named() -> None:
    wrong = Architecture(build=VendorNet, features=("trunk",), head="fc", preprocessing=PREPROCESSING)
    with pytest.raises(ArchitectureError) as caught:
        take_apart(VendorNet(), wrong, "wrong")
    assert len(caught.value.problems) == 2


def test_a_bare_activation_after_the_frozen_blocks_leaves_the_other_networks_input_alone() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.5, inplace=True), nn.Conv2d(4, 4, 3))
    teacher = Network(backbone, nn.Linear(4, 3), 2, PREPROCESSING).eval()
    teacher.freeze(1)
    student = teacher.student(trains=True)
    images = torch.from_numpy(generated_images(64)[:2])
    shared = student.stem(images)
    student.after_stem(shared)
    torch.testing.assert_close(teacher.after_stem(shared)[1], teacher(images)[1])


class PreActivation(nn.Module):
    """Starts with an activation that works in place, like the blocks of some residual networks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.activation = nn.LeakyReLU(0.5, inplace=True)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.convolution(self.activation(maps)) + 1  # type: ignore[no-any-return]


class PreActivationNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first, shrinking = nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)
        blocks = (PreActivation(4), nn.Dropout(), PreActivation(4), shrinking, PreActivation(4))
        self.features = nn.Sequential(first, *blocks)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]


PRE_ACTIVATION = Architecture(
    build=PreActivationNet, features=("features",), head="fc", preprocessing=PREPROCESSING
)


@pytest.fixture
def pre_activation(monkeypatch: pytest.MonkeyPatch) -> Network:
    """Registers an architecture of pre-activation blocks, and makes a teacher of it."""
    found = {"pre_activation": PRE_ACTIVATION}
    monkeypatch.setattr(
        networks, "find_architecture", lambda name: found.get(name) or find_architecture(name)
    )
    return fresh_network("pre_activation")


@pytest.mark.parametrize("frozen_blocks", range(7))
def test_a_block_that_starts_with_an_in_place_operation_leaves_the_other_networks_input_alone(
    pre_activation: Network, frozen_blocks: int
) -> None:
    teacher = pre_activation
    teacher.freeze(frozen_blocks)
    student = teacher.student(trains=True)
    images = torch.from_numpy(generated_images(64)[:2])
    shared = student.stem(images)
    before = shared.maps.clone()
    for network in (student, teacher):
        network.after_stem(shared)
        assert torch.equal(shared.maps, before)
    torch.testing.assert_close(teacher.after_stem(shared)[1], teacher(images)[1])


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("frozen_blocks", [0, 1, 3])
def test_a_block_that_starts_with_an_in_place_operation_is_trained_and_recomputed(
    pre_activation: Network, frozen_blocks: int, levels: bool
) -> None:
    teacher, recipe = pre_activation, RECIPES["lwm"]
    if levels:
        found = find_levels(teacher, 2)
        assert found is not None
        teacher.read_levels(found)
        teacher.head.weight[:3] = torch.rand(3, teacher.head.in_features)
    teacher.freeze(frozen_blocks)
    images = generated_images(64)[:4]
    gradients, losses = [], []
    for recompute in (False, True):
        student = teacher.student(trains=True)
        student.add_classes(1, torch.Generator().manual_seed(0))
        trained = trained_parameters(student, recipe)
        student.recompute = recompute
        losses.append(accumulate_gradients(student, teacher, Batch(0, [3] * 4, images), 4, recipe, "sigmoid"))
        gradients.append([parameter.grad for parameter in trained.values()])
    assert losses[0][2] < 1e-5  # at first, student and teacher have the same maps
    np.testing.assert_allclose(losses[0], losses[1])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_dropped_pages_are_read_again() -> None:
    network = load_network(open_bundle(BASE_BUNDLE))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    drop_mapped_pages(network.mapped)
    assert network.mapped and all(torch.equal(before[n], t) for n, t in network.state_dict().items())


def test_tensors_that_are_not_pages_of_the_file_are_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = {name: tensor.clone() for name, tensor in load_file(BASE_BUNDLE).items()}
    monkeypatch.setattr(loading, "load_file", lambda path: copied)
    network = load_network(open_bundle(BASE_BUNDLE))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    drop_mapped_pages(network.state_dict().values())
    assert network.mapped == ()
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


@pytest.mark.slow
def test_building_a_network_does_not_load_the_compiler() -> None:
    program = (
        "import sys\n"
        "from lwm_edge.model.loading import empty_network\n"
        "from tests.support.networks import manifest_of\n"
        "for name in ('resnet18', 'mobilenet_v2', 'efficientnet_b0', 'small_resnet20'):\n"
        "    empty_network(manifest_of(name))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_reading_levels_changes_nothing_while_their_weights_are_zero() -> None:
    network, images = fresh_network("small_resnet20"), torch.from_numpy(generated_images(64)[:2])
    features, logits = network(images)
    levels = find_levels(network, 3)
    assert levels == Levels(blocks=(5, 8), grid=3, values=9 * (16 + 32))
    network.read_levels(levels)
    assert network.head.in_features == levels.values + 64 == network.level_values + 64
    assert torch.equal(network(images)[0], features) and torch.equal(network(images)[1], logits)
    network.add_classes(1, torch.Generator().manual_seed(3))
    assert network.head_weight[:, : levels.values].abs().sum() == 0


def test_the_head_reads_the_levels_and_the_last_maps() -> None:
    network, images = network_with_levels(), torch.from_numpy(generated_images(64)[:2])
    maps, values = network.normalise(images), []
    for index, block in enumerate(network.blocks()):
        maps = block(maps)
        if index in (5, 8):
            values.append(torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1))
    pooled = torch.cat([*values, maps.mean((2, 3))], 1)
    torch.testing.assert_close(network.activations(images).pooled(), pooled)
    weight, bias = network.head_tensors()
    torch.testing.assert_close(network(images)[1], pooled @ weight.T + bias)


@pytest.mark.parametrize("frozen_blocks", [0, 4, 6, 9, 12])
def test_teacher_and_student_share_the_levels_of_frozen_blocks(frozen_blocks: int) -> None:
    network, images = network_with_levels(), torch.from_numpy(generated_images(64)[:2])
    network.freeze(frozen_blocks)
    features, logits = network.after_stem(network.stem(images))
    torch.testing.assert_close(features, network(images)[0])
    torch.testing.assert_close(logits, network(images)[1])


def test_no_loss_trains_the_weights_that_read_the_levels() -> None:
    network, images = network_with_levels(), torch.from_numpy(generated_images(64)[:2])
    network.requires_grad_(True)
    network(images)[1].square().sum().backward()
    gradient, values = network.head.weight.grad, network.level_values
    assert gradient is not None and gradient[:, :values].abs().sum() == 0 < gradient[:, values:].abs().sum()
    first = network.blocks()[0].get_parameter("weight").grad
    assert first is not None and first.abs().sum() > 0  # but the backbone is trained


def test_coarse_attention_maps_cause_a_warning() -> None:
    network = fresh_network("small_resnet20")
    (one,), (several,) = few_cells_warnings(network, 1), few_cells_warnings(network, 9)
    assert one.startswith("attention maps have 1 cell at 64 px; ")
    assert several.startswith("attention maps have 9 cells at 64 px; ")
    assert few_cells_warnings(network, 16) == []


def test_levels_of_another_network_are_refused() -> None:
    network, images = network_with_levels(), torch.from_numpy(generated_images(64)[:2])
    assert network.levels is not None
    network.levels = network.levels.model_copy(update={"blocks": (5, 9)})
    with pytest.raises(ArchitectureError, match="offers 384 values, but its head reads 256"):
        network(images)
    network.levels = network.levels.model_copy(update={"blocks": (11,), "grid": 5})
    network.preprocessing = PREPROCESSING.model_copy(update={"image_size": 16})
    with pytest.raises(ArchitectureError, match="4x4 cells cannot be averaged over 5x5"):
        network(images[:, :16, :16])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_levels(name: str) -> None:
    network = fresh_network(name)
    levels = find_levels(network, 1)
    assert levels is not None and len(levels.blocks) >= 2
    before = network(torch.from_numpy(generated_images(64)[:1]))[1]
    network.read_levels(levels)
    torch.testing.assert_close(network(torch.from_numpy(generated_images(64)[:1]))[1], before)
    network.requires_grad_(True)(torch.from_numpy(generated_images(64)[:2]))[1].sum().backward()
    twin = load_tensors(empty_network(manifest_of(name, levels)), network.state_dict())
    torch.testing.assert_close(twin(torch.from_numpy(generated_images(64)[:1]))[1], before)

"""A vendor's own network is tried out before it is trained, and what is wrong with it is said plainly."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwm_edge import Architecture, BaseConfig, build_base
from lwm_edge.base.start import start_network
from lwm_edge.errors import ArchitectureError, ConfigError
from lwm_edge.model.architectures.registry import architecture_names, find_architecture
from tests.support.folders import PhotoMaker
from tests.support.networks import PREPROCESSING


class Net(nn.Module):
    """Classifies images as a vendor's own network may; the arguments make its faults."""

    def __init__(self, *blocks: nn.Module, output: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()),
            *blocks,
            nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
        )
        self.top = nn.Linear(16, 4)
        self.output = output

    def forward(self, images: Tensor) -> Any:
        return self.output(self.top(self.body(images).mean((2, 3))))


def with_buffer(name: str, buffer: Tensor, persistent: bool = True) -> nn.Module:
    module = nn.Sequential(nn.Identity())
    module.register_buffer(name, buffer, persistent=persistent)
    return module


def with_attribute(value: object) -> nn.Module:
    module = nn.Identity()
    module.own = value  # type: ignore[assignment]
    return module


class ReadsValues(nn.Identity):
    """Reads values of tensors in its constructor, as networks with stochastic depth often do."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]


class TakesOnly(nn.Identity):
    """Takes maps of a single size."""

    def forward(self, maps: Tensor) -> Tensor:
        assert maps.shape[-1] == 14, "only maps of 14 px"
        return maps


class ToTokens(nn.Module):
    """Turns maps into tokens."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).transpose(1, 2)


class FromTokens(nn.Module):
    """Turns tokens into maps again."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, (14, 14))


class Hyphen(nn.Module):
    """Has a name with a hyphen, which torch allows."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("block-1", nn.BatchNorm2d(8))

    def forward(self, maps: Tensor) -> Tensor:
        return self.get_submodule("block-1")(maps)  # type: ignore[no-any-return]


def register(monkeypatch: pytest.MonkeyPatch, **builds: Callable[[], Any] | Architecture) -> None:
    """Registers architectures as if other packages had; each is given as its `build` or as a whole."""
    entries = []
    for name, build in builds.items():
        architecture = (
            build
            if isinstance(build, Architecture)
            else Architecture(build=build, features=("body",), head="top", preprocessing=PREPROCESSING)
        )
        setattr(sys.modules[__name__], f"REGISTERED_{name}", architecture)
        entries.append(metadata.EntryPoint(name, f"{__name__}:REGISTERED_{name}", "lwm_edge.architectures"))
    monkeypatch.setattr(metadata, "entry_points", lambda **kw: metadata.EntryPoints(entries).select(**kw))


def start(name: str, **settings: Any) -> None:
    architecture = find_architecture(name)
    config = BaseConfig(architecture=name, image_size=28, capacity=8, **settings)
    preprocessing = PREPROCESSING.model_copy(update={"image_size": 28, "resize_size": 28})
    start_network(architecture, config, 2, preprocessing)


def raising() -> None:
    raise KeyError("no such width")


@pytest.mark.parametrize(
    "build",
    [Net, lambda: Net(ReadsValues()), lambda: Net(TakesOnly()), lambda: Net(nn.Dropout())],
    ids=["plain", "reads values", "of one size", "with dropout"],
)
def test_a_sound_network_passes(monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module]) -> None:
    register(monkeypatch, own_net=build)
    start("own_net")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (raising, "cannot be built (KeyError: 'no such width'); correct its code"),
        (sys.exit, "cannot be built (SystemExit: it ends the program)"),
        (lambda: None, "`build` returns no torch.nn.Module"),
        (lambda: Net().half(), "has weights of float16; `build` must return float32"),
        (lambda: Net(output=lambda logits: (logits, logits)), "returns no tensor of logits"),
        (lambda: Net(Hyphen()), "'backbone.body.1.block-1.weight' has characters other than"),
        (
            lambda: Net(with_buffer("mask", torch.ones(2) > 0)),
            "backbone.body.1.mask is bool, which bundles do not",
        ),
        (lambda: Net(with_buffer("mask", torch.ones(2).bfloat16())), "tensors cannot be written to a bundle"),
        (lambda: Net(with_buffer("mask", torch.ones(2), False)), "register them with persistent=True"),
        (lambda: Net(with_attribute(threading.Lock())), "it cannot be copied"),
        (lambda: Net(ToTokens(), FromTokens()), "do not turn maps into maps"),
        (lambda: Net(nn.GroupNorm(2, 8)), "operators that no classifier needs: 'InstanceNormalization'"),
        (lambda: Net(nn.Upsample(scale_factor=2)), "replace the layers that need other operations"),
    ],
)
def test_a_network_that_could_not_be_shipped_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[], Any], said: str
) -> None:
    register(monkeypatch, own_net=build)
    with pytest.raises(ArchitectureError) as refused:
        start("own_net")
    assert said in str(refused.value)


@pytest.mark.parametrize("tail", [raising, lambda model: None, lambda model: sys.exit()])
def test_a_faulty_tail_is_named(monkeypatch: pytest.MonkeyPatch, tail: Any) -> None:
    whole = Architecture(build=Net, features=("body",), head="top", preprocessing=PREPROCESSING, tail=tail)
    register(monkeypatch, own_net=whole)
    with pytest.raises(ArchitectureError, match=r"architecture own_net: .*tail"):
        start("own_net")


def test_an_image_size_that_a_network_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, own_net=lambda: Net(TakesOnly()))
    config = BaseConfig(architecture="own_net", image_size=32, capacity=8)
    with pytest.raises(ConfigError, match=r"cannot take images of 32 px \(only maps of 14 px\); use another"):
        start_network(
            find_architecture("own_net"),
            config,
            2,
            PREPROCESSING.model_copy(update={"image_size": 32, "resize_size": 32}),
        )


def test_a_key_is_unlike_those_of_other_packages_and_fits_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, OwnNet=Net, small_resnet20=Net)
    assert "OwnNet" not in architecture_names()
    with pytest.raises(ArchitectureError, match=r"OwnNet .*needs another key: up to 64 characters a-z"):
        find_architecture("OwnNet")
    with pytest.raises(ArchitectureError, match="that of lwm-edge itself and that of tests"):
        find_architecture("small_resnet20")
    entries = [metadata.EntryPoint("net", f"{place}:X", "lwm_edge.architectures") for place in ("a", "b")]
    monkeypatch.setattr(metadata, "entry_points", lambda **kw: metadata.EntryPoints(entries).select(**kw))
    with pytest.raises(ArchitectureError, match="called net: that of a:X and that of b:X"):
        find_architecture("net")


def test_a_single_photo_to_learn_from_is_refused(tmp_path: Path, make_photos: PhotoMaker) -> None:
    config = BaseConfig(architecture="small_resnet20", image_size=28, capacity=8, epochs=1, held_back=0.8)
    with pytest.raises(ConfigError, match="a single photo is left to learn from"):
        build_base(make_photos("Bag", count=5), tmp_path / "base.lwm", config)
    assert not list(tmp_path.glob("base.lwm*"))


def test_a_part_of_torchruns_environment_is_refused(
    tmp_path: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    with pytest.raises(ConfigError, match=r"lacks RANK, WORLD_SIZE.*; start this with torchrun, or unset"):
        build_base(make_photos("Bag"), tmp_path / "base.lwm", BaseConfig(architecture="small_resnet20"))

"""A base keeps a part of the pretrained weights that its training started from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm_edge import BaseConfig, build_base
from lwm_edge.base import saved_training
from lwm_edge.base.averaging import average_weights
from lwm_edge.errors import ConfigError
from lwm_edge.model.architectures.registry import find_architecture
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.tensors import Arrays
from lwm_edge.records import Progress
from tests.support.folders import PhotoMaker
from tests.support.networks import fresh_network
from tests.support.samples import DEVICE


def test_each_tensor_becomes_the_mean_of_before_and_after() -> None:
    network, before = fresh_network("small_resnet20"), fresh_network("small_resnet20").backbone.state_dict()
    with torch.no_grad():
        for parameter in network.backbone.parameters():
            parameter.add_(1)
    head = network.head.weight.clone()
    after = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    average_weights(network, before, 0.25)
    for name, tensor in network.backbone.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.25 * before[name] + 0.75 * after[name])
        else:
            assert torch.equal(tensor, after[name])
    assert torch.equal(network.head.weight, head)


def test_half_of_pretrained_weights_is_kept_unless_the_settings_say_otherwise() -> None:
    def kept(**settings: object) -> float:
        return BaseConfig.model_validate({"architecture": "resnet18", **settings}).kept_share

    assert kept(weights="imagenet") == 0.5 and kept(weights="imagenet", pretrained_share=0.2) == 0.2
    assert kept(weights="imagenet", pretrained_share=0) == kept() == kept(checkpoint=Path("x.pth")) == 0
    assert kept(checkpoint=Path("x.pth"), pretrained_share=0.3) == 0.3
    with pytest.raises(ConfigError, match="pretrained_share needs pretrained weights or a checkpoint"):
        BaseConfig(architecture="resnet18", pretrained_share=0.5)
    with pytest.raises(ConfigError, match="less than 1"):
        BaseConfig(architecture="resnet18", weights="imagenet", pretrained_share=1)


@pytest.fixture
def start(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Writes a checkpoint to start from, and returns its state dict."""
    torch.manual_seed(2)
    state: dict[str, torch.Tensor] = find_architecture("small_resnet20").build().state_dict()
    torch.save(state, tmp_path / "start.pth")
    return state


def _config(tmp_path: Path, **settings: object) -> BaseConfig:
    config = BaseConfig(
        architecture="small_resnet20",
        image_size=28,
        capacity=4,
        epochs=6,
        batch_size=8,
        grid=0,
        device=DEVICE,
        held_back=0,
        checkpoint=tmp_path / "start.pth",
    )
    return config.model_copy(update=settings)


def test_a_base_is_half_way_between_its_checkpoint_and_what_it_learnt(
    tmp_path: Path, make_photos: PhotoMaker, start: dict[str, torch.Tensor]
) -> None:
    photos = make_photos("Bag", "Shirt", count=12)

    def made(**settings: object) -> tuple[Arrays, Counter[str]]:
        phases = Counter[str]()
        build_base(
            photos,
            tmp_path / "base.lwm",
            _config(tmp_path, **settings),
            on_progress=lambda progress: phases.update([progress.phase]),
        )
        return open_bundle(tmp_path / "base.lwm").arrays(), phases

    trained, steps = made()
    assert (steps["train"], steps["head"]) == (6 * 3, 0)  # six epochs of three batches
    half, steps = made(pretrained_share=0.5)
    assert (steps["train"], steps["head"]) == (6 * 3, 2 * 3)
    assert not np.array_equal(half["head.weight"], trained["head.weight"])
    moved = 0
    for name in trained:
        _, is_backbone, key = name.partition("backbone.")
        if is_backbone and trained[name].dtype == np.float32:
            mean = (trained[name] + start[key].numpy()) / 2
            np.testing.assert_allclose(half[name], mean, rtol=1e-5, atol=1e-6)
            moved += not np.array_equal(trained[name], start[key].numpy())
    assert moved > 20
    frozen, steps = made(pretrained_share=0.5, frozen_blocks=12)
    assert not steps["head"]  # no block was trained, so the head has learnt from the features that ship
    assert all(
        np.array_equal(frozen[f"backbone.{key}"], tensor.numpy())
        for key, tensor in start.items()
        if f"backbone.{key}" in frozen
    )


@pytest.mark.usefixtures("start")
def test_an_interruption_while_the_head_is_trained_changes_nothing(
    tmp_path: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def stop(progress: Progress) -> None:
        if progress.phase == "head":
            raise Killed

    photos, config = make_photos("Bag", "Shirt", count=12), _config(tmp_path, pretrained_share=0.5)
    build_base(photos, tmp_path / "whole.lwm", config)
    monkeypatch.setattr(saved_training, "SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(Killed):
        build_base(photos, tmp_path / "base.lwm", config, on_progress=stop)
    assert (tmp_path / "base.lwm.training").is_file() and not (tmp_path / "base.lwm").exists()
    build_base(photos, tmp_path / "base.lwm", config)
    assert (tmp_path / "base.lwm").read_bytes() == (tmp_path / "whole.lwm").read_bytes()
    assert not (tmp_path / "base.lwm.training").exists()

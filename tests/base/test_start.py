"""A base starts from pretrained weights, which may be out of reach, damaged or hostile."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
import torch

from lwm_edge import BaseConfig, PackConfig
from lwm_edge.base.checkpoint import read_checkpoint
from lwm_edge.base.start import _pretrained, start_network, trained_network
from lwm_edge.errors import ArchitectureError, ConfigError
from lwm_edge.model.architectures._torchvision import models
from lwm_edge.model.architectures.registry import find_architecture

ELSEWHERE = r"--checkpoint FILE --pretrained-share 0\.5$"


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns where torch keeps the weights of ResNet-18 that it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder / Path(models.ResNet18_Weights.DEFAULT.url).name


def fetched() -> Any:
    return _pretrained(find_architecture("resnet18"), "resnet18", "imagenet")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError("no network"), r"cannot be fetched \(no network\); download them elsewhere"),
        (IncompleteRead(b"", 9), r"cannot be read \(IncompleteRead.*if a download was cut short, delete"),
        (RuntimeError("invalid hash value"), r"cannot be read \(invalid hash value\); if a download"),
    ],
)
def test_who_cannot_fetch_weights_is_told_how_to_start_from_them_all_the_same(
    error: Exception, why: str
) -> None:
    def fetch() -> dict[str, torch.Tensor]:
        raise error

    architecture = replace(find_architecture("resnet18"), weights={"imagenet": fetch})
    with pytest.raises(ConfigError, match=f"{why}.*{ELSEWHERE}"):
        _pretrained(architecture, "resnet18", "imagenet")


def test_weights_that_were_downloaded_before_are_read(downloaded: Path) -> None:
    weights = find_architecture("resnet18").build().state_dict()
    torch.save(weights, downloaded)
    assert fetched().keys() == weights.keys()


def test_a_downloaded_file_that_is_cut_short_is_named(downloaded: Path) -> None:
    torch.save(find_architecture("resnet18").build().state_dict(), downloaded)
    os.truncate(downloaded, 1000)
    with pytest.raises(ConfigError, match=f"delete its file in {downloaded.parent.parent} .*{ELSEWHERE}"):
        fetched()


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, pickle.dump], ids=["torch.save", "pickle.dump"])
def test_code_in_a_downloaded_file_never_runs(downloaded: Path, tmp_path: Path, save: Any) -> None:
    with downloaded.open("wb") as file:
        save({"conv1.weight": _Hostile(tmp_path / "code ran")}, file)
    with pytest.raises(ConfigError, match="cannot be read") as refused:
        fetched()
    assert not (tmp_path / "code ran").exists()
    assert "trust" not in refused.value.message  # torch's own message advises reading the file unsafely


@pytest.mark.parametrize("state", [None, {}, [1], {"fc.weight": [1.0]}])
def test_weights_that_are_no_state_dict_are_refused(state: Any) -> None:
    architecture = replace(find_architecture("resnet18"), weights={"own": lambda: state})
    with pytest.raises(ArchitectureError, match="own weights of resnet18 are no state dict"):
        _pretrained(architecture, "resnet18", "own")
    with pytest.raises(ConfigError, match="weights"):
        BaseConfig(architecture="resnet18", weights="")


def test_a_head_without_bias_is_kept_with_a_bias_of_zeros(tmp_path: Path) -> None:
    architecture, path = find_architecture("small_resnet20"), tmp_path / "c.pth"
    state = architecture.build().state_dict()
    torch.save({name: tensor for name, tensor in state.items() if name != "fc.bias"}, path)
    classes = len(state["fc.weight"])
    trained = BaseConfig(architecture="small_resnet20", checkpoint=path, capacity=classes)
    packed = PackConfig(architecture="small_resnet20", capacity=classes)
    for network in (
        start_network(architecture, trained, classes, architecture.preprocessing),
        trained_network(architecture, path, packed, classes, architecture.preprocessing),
    ):
        weight, bias = network.head_tensors()
        assert torch.equal(weight, state["fc.weight"]) and not bias.any()


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "c.pth").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr("lwm_edge.inspection.open_regular", refuse)
        with pytest.raises(ConfigError, match=r"cannot be read \(Permission denied\); check the path"):
            read_checkpoint(tmp_path / "c.pth", [])

    def run_out(*given: object, **named: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1200000000 bytes")

    monkeypatch.setattr(torch, "load", run_out)
    with pytest.raises(RuntimeError, match="not enough memory"):  # which becomes a ResourceError
        read_checkpoint(tmp_path / "c.pth", [])

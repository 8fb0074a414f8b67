"""These tests follow `add_classes` from photos to commit, and try faults that must leave a home untouched."""

from __future__ import annotations

import json
import os
import shutil
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lwm_edge import (
    IncrementConfig,
    IncrementReport,
    _processes,
    add_classes,
    evaluate,
    init_home,
    open_home,
    remove_class,
)
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import (
    BundleError,
    CapacityError,
    ConfigError,
    GateError,
    HomeError,
    LwmEdgeError,
    ParityError,
    PhotosError,
    ResourceError,
)
from lwm_edge.home.home import Home
from lwm_edge.increment import learn as increment_module
from lwm_edge.increment import task, trained
from lwm_edge.increment.values import Learnt
from lwm_edge.increment.verdict import evaluate_student
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.running import observe
from lwm_edge.learning.training import train_increment
from lwm_edge.model.backbone import Backbone
from lwm_edge.model.bundle import Bundle, open_bundle, save_bundle
from lwm_edge.model.classifier import Classifier
from lwm_edge.model.loading import load_network
from lwm_edge.model.manifest import Manifest
from lwm_edge.model.network import Network
from lwm_edge.model.onnx.parity import generated_images, head_inputs_of_probe, parity_probe
from lwm_edge.model.tensors import AXES_COUNT
from lwm_edge.photos import photo_set as photo_set_module
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.photos.reading import read_photo
from lwm_edge.records import Progress
from tests.support.folders import PhotoMaker, state_of
from tests.support.samples import QUICK, WITHOUT_LEVELS


def _add(home: Home, photos: Path, config: IncrementConfig = QUICK) -> IncrementReport:
    return add_classes(home, photos, config, isolate=False)


def test_an_increment_changes_bundle_onnx_labels_and_receipt_together(
    home: Home, make_photos: PhotoMaker
) -> None:
    parent = home.open_bundle().manifest
    report = _add(home, make_photos("Shirt", "Sneaker"))

    manifest = home.open_bundle().manifest
    assert manifest.class_names == (*parent.class_names, "Shirt", "Sneaker")
    assert manifest.shipped_classes == 6 and manifest.increment_count == 1 and manifest.recipe == "lwm"
    assert manifest.parent_digest == parent.model_digest != manifest.model_digest == report.model_digest
    classifier = Classifier(home.current().onnx)
    assert classifier.class_names == manifest.class_names
    assert classifier.model_digest == manifest.model_digest
    assert home.current().labels.read_text().splitlines() == list(manifest.class_names)
    receipt = IncrementReport.model_validate_json(home.current().receipt.read_text())
    # The list of mistakes names photos, so no home keeps it.
    assert receipt == report.model_copy(update={"mistakes": ()})
    assert (report.photos_trained, report.photos_held_back) == (12, 4)
    assert "cannot be measured" in report.old_classes_note
    assert report.parity.real_photos and report.parity.largest_difference <= report.parity.tolerance


def test_the_new_classes_are_learnt(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", "Ankle boot", count=40)
    report = _add(home, photos, QUICK.model_copy(update={"recipe": "lwm-lda", "epochs": 4}))
    assert any(line.startswith("64 photos are too few to show how") for line in report.warnings)
    assert report.held_back.new_accuracy is not None and report.held_back.new_accuracy > 0.6
    assert evaluate(home, photos).new_accuracy == pytest.approx(report.held_back.new_accuracy, abs=0.3)


def test_only_the_onnx_and_labels_grow(home: Home, make_photos: PhotoMaker) -> None:
    before = {path.name: path.stat().st_size for path in home.current().path.iterdir()}
    for number, name in enumerate(["Shirt", "Sneaker", "Bag"]):
        _add(home, make_photos(name, folder=f"photos{number}"))
    after = {path.name: path.stat().st_size for path in home.current().path.iterdir()}
    assert (
        after["model.lwm"] == before["model.lwm"] == open_bundle(home.current().bundle).manifest.bundle_bytes
    )
    assert after["receipt.json"] == before["receipt.json"]
    assert after["labels.txt"] - before["labels.txt"] == len("Shirt\nSneaker\nBag\n")
    axes = AXES_COUNT  # of the score for unknown objects
    head_rows = 3 * (load_network(home.open_bundle()).head.in_features + 1 + axes + 1) * 4
    assert head_rows < after["classifier.onnx"] - before["classifier.onnx"] < head_rows + 100


@pytest.mark.usefixtures("every_core")
def test_equal_seeds_give_equal_bundles(home: Home, tmp_path: Path, make_photos: PhotoMaker) -> None:
    shutil.copytree(home.path, tmp_path / "second", symlinks=True)
    photos = make_photos("Shirt")
    on_cpu = QUICK.model_copy(update={"device": "cpu"})  # a GPU rounds differently each time
    first, second = _add(home, photos, on_cpu), _add(Home(tmp_path / "second"), photos, on_cpu)
    assert first.model_digest == second.model_digest


@pytest.mark.slow
def test_the_outcome_does_not_depend_on_the_micro_batch(
    home: Home, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    """A smaller micro-batch changes the model only by rounding, and far less than another seed does."""
    photos = make_photos("Bag", "Shirt", count=16)
    weights, accuracy = {}, {}
    for micro_batch_size, seed in ((16, 0), (4, 0), (1, 0), (16, 1)):
        copy = tmp_path / f"home{micro_batch_size}-{seed}"
        shutil.copytree(home.path, copy, symlinks=True)
        settings = {"epochs": 3, "micro_batch_size": micro_batch_size, "seed": seed}
        report = _add(Home(copy), photos, QUICK.model_copy(update=settings))
        tensors = Home(copy).open_bundle().arrays()
        learnt = [array.ravel() for name, array in sorted(tensors.items()) if name.startswith("backbone")]
        weights[micro_batch_size, seed] = np.concatenate(learnt).astype(np.float64)
        accuracy[micro_batch_size, seed] = report.held_back.accuracy
    by_seed = np.linalg.norm(weights[16, 1] - weights[16, 0])
    for micro_batch_size in (4, 1):
        by_rounding = np.linalg.norm(weights[micro_batch_size, 0] - weights[16, 0])
        assert by_rounding < by_seed / 100
        assert accuracy[micro_batch_size, 0] == accuracy[16, 0]


def test_gamma_makes_a_difference(home: Home, tmp_path: Path, make_photos: PhotoMaker) -> None:
    shutil.copytree(home.path, tmp_path / "second", symlinks=True)
    photos = make_photos("Shirt")
    config = QUICK.model_copy(update={"epochs": 3})  # in the first step student and teacher agree
    report = _add(home, photos, config)
    other = _add(Home(tmp_path / "second"), photos, config.model_copy(update={"gamma": 0.0}))
    assert report.model_digest != other.model_digest


@pytest.mark.slow
def test_a_worker_does_not_run_a_file_in_the_current_folder(
    home: Home, make_photos: PhotoMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    seen: list[Progress] = []
    report = add_classes(home, make_photos("Shirt"), QUICK, on_progress=seen.append)
    assert home.open_bundle().manifest.model_digest == report.model_digest
    assert report.new_classes == ("Shirt",)
    phases = ["photos", "plan", "features", "train", "features", "evaluate", "stage", "commit"]
    assert [phase for phase, _ in groupby(p.phase for p in seen)] == phases


@pytest.mark.slow
def test_the_workers_errors_arrive_whole(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Shirt", renamed={"coat": "Coat"}, count=2)
    with pytest.raises(PhotosError) as caught:
        add_classes(home, photos, QUICK)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(("status", "error"), [(-9, ResourceError), (3, LwmEdgeError)])
def test_a_worker_that_dies_leaves_the_home_alone(
    home: Home,
    make_photos: PhotoMaker,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    error: type[LwmEdgeError],
) -> None:
    before = state_of(home.path)
    end = "os.kill(os.getpid(), 9)" if status == -9 else f"sys.exit({status})"
    monkeypatch.setattr(_processes, "_START_CODE", f"import os, sys; {end}")
    with pytest.raises(error, match="the model is unchanged"):
        add_classes(home, make_photos("Shirt"), QUICK)
    assert state_of(home.path) == before


def _corrupt(folder: Path) -> None:
    for photo in folder.rglob("*.png"):
        photo.write_bytes(b"no image")


def _missing(home: Home, make: PhotoMaker) -> Path:
    return home.path / "nowhere"


def _no_sub_folders(home: Home, make: PhotoMaker) -> Path:
    return make("Shirt") / "Shirt"


def _base_class(home: Home, make: PhotoMaker) -> Path:
    return make("Shirt", renamed={"coat": "Coat"})


def _same_names(home: Home, make: PhotoMaker) -> Path:
    return make(renamed={"Bag": "Bag", "bAG": "Shirt"})


def _empty_class(home: Home, make: PhotoMaker) -> Path:
    return make("Shirt", "Bag", count=0)


def _unreadable(home: Home, make: PhotoMaker) -> Path:
    photos = make("Shirt")
    _corrupt(photos)
    return photos


def _misleading_name(home: Home, make: PhotoMaker) -> Path:
    return make(renamed={"\u202eevil": "Shirt"})


@pytest.mark.parametrize(
    ("make_bad", "problem"),
    [
        (_missing, "does not exist"),
        (_no_sub_folders, "has files but no sub-folders"),
        (_base_class, "already knows the class Coat; the vendor shipped it, and does not permit more photos"),
        (_same_names, "are the same class name"),
        (_empty_class, "0 usable photos; at least 5 are needed"),
        (_unreadable, "is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image"),
        (_misleading_name, "cannot be a class name"),
    ],
)
def test_bad_photos_change_nothing(
    home: Home, make_photos: PhotoMaker, make_bad: object, problem: str
) -> None:
    photos = make_bad(home, make_photos)  # type: ignore[operator]
    before = state_of(home.path)
    with pytest.raises(PhotosError) as caught:
        _add(home, photos)
    assert problem in str(caught.value)
    assert state_of(home.path) == before


def test_sub_folders_of_a_known_class_are_not_taken_for_new_classes(
    home: Home, make_photos: PhotoMaker
) -> None:
    known = make_photos(renamed={"Coat/day 1": "Coat", "Coat/day 2": "Shirt"})
    with pytest.raises(PhotosError, match="already knows the class Coat"):
        _add(home, known)


def test_all_problems_are_reported_at_once(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Shirt", "Bag", count=3, renamed={"DRESS": "Dress"})
    with pytest.raises(PhotosError) as caught:
        _add(home, photos)
    text = str(caught.value)
    assert all(
        name in text for name in ("Shirt: 3 usable", "Bag: 3 usable", "DRESS: the model already knows")
    )


def test_bad_photos_among_enough_good_ones_are_listed(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Shirt")
    (photos / "Shirt" / "broken.jpg").write_bytes(b"no image")
    shutil.copy(photos / "Shirt" / "000.png", photos / "Shirt" / "copy.png")
    report = _add(home, photos)
    assert report.photos_trained + report.photos_held_back == 8
    assert len(report.skipped) == 2
    assert any("broken.jpg is not a JPEG" in line for line in report.skipped)
    assert any("duplicate of Shirt/000.png" in line for line in report.skipped)


def test_more_classes_than_the_capacity_change_nothing(home: Home, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(27):
        (tmp_path / "many" / f"class {number}").mkdir(parents=True)
        for photo in range(5):
            pixels = generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "many" / f"class {number}" / f"{photo}.png")
    before = state_of(home.path)
    with pytest.raises(
        CapacityError,
        match="27 new classes do not fit: the model knows 6 of at most 32, so there is room for 26 more",
    ):
        _add(home, tmp_path / "many")
    assert state_of(home.path) == before


def test_a_damaged_bundle_is_not_learnt_from(home: Home, make_photos: PhotoMaker) -> None:
    bundle = home.current().bundle
    bundle.write_bytes(bundle.read_bytes()[:-1])
    before = state_of(home.path)
    with pytest.raises(BundleError):
        _add(home, make_photos("Shirt"))
    assert state_of(home.path) == before


def test_a_disagreeing_onnx_file_is_refused(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = save_bundle

    def save_changed(path: Path, arrays: dict[str, np.ndarray], manifest: Manifest) -> Bundle:
        bias = arrays["head.bias"] + (np.arange(32) < 7)
        return save(path, {**arrays, "head.bias": bias.astype(np.float32)}, manifest)

    monkeypatch.setattr(increment_module, "save_bundle", save_changed)
    before = state_of(home.path)
    with pytest.raises(ParityError, match="nothing was changed"):
        _add(home, make_photos("Shirt"))
    assert state_of(home.path) == before


def test_gamma_is_refused_for_maps_of_a_single_cell(
    monkeypatch: pytest.MonkeyPatch, home: Home, make_photos: PhotoMaker
) -> None:
    monkeypatch.setattr(trained, "attention_cells", lambda network: 1)
    photos = make_photos("Shirt")
    with pytest.raises(ConfigError, match="single cell"):
        _add(home, photos)
    assert _add(home, photos, QUICK.model_copy(update={"gamma": 0.0})).gamma == 0
    monkeypatch.setattr(trained, "attention_cells", lambda network: 4)
    remove_class(home, "Shirt")
    assert any("4x4 or more" in warning for warning in _add(home, photos).warnings)


def test_a_missing_home_is_refused(tmp_path: Path, make_photos: PhotoMaker) -> None:
    with pytest.raises(HomeError, match="lwm-edge init"):
        add_classes(tmp_path / "none", make_photos("Shirt"))


def test_a_removed_class_can_be_added_again(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Shirt")
    _add(home, photos)
    with pytest.raises(PhotosError, match="lwm-edge remove-class Shirt"):
        _add(home, photos)
    remove_class(home, "shirt")
    assert _add(home, photos).new_classes == ("Shirt",)


@pytest.mark.parametrize(
    ("base", "count", "recipe", "reason"),
    [
        (WITHOUT_LEVELS, 8, "lda", "12 photos are too few to show how training would move 64 features"),
        (BASE_BUNDLE, 100, "lda", "160 photos are too few to show how training would move 496 features"),
    ],
)
def test_auto_chooses_by_the_photos_and_the_network(
    tmp_path: Path, make_photos: PhotoMaker, base: Path, count: int, recipe: str, reason: str
) -> None:
    init_home(base, tmp_path / "home")
    home = open_home(tmp_path / "home")
    config = QUICK.model_copy(update={"recipe": "auto"})
    report = _add(home, make_photos("Bag", "Ankle boot", count=count), config)
    assert report.recipe == home.open_bundle().manifest.recipe == recipe
    assert reason in report.recipe_reason
    assert report.training is None and report.comparison is None
    assert report.held_back.new_accuracy is not None and report.held_back.new_accuracy > 0.6


def test_settings_that_change_nothing_are_named(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag")
    warned = _add(home, photos, IncrementConfig(epochs=3, gamma=1.0, device="cuda")).warnings
    assert warned[0] == "recipe lda trains nothing, so these settings have no effect: gamma, epochs, device"
    remove_class(home, "Bag")
    assert not any("no effect" in line for line in _add(home, photos, IncrementConfig(device="cpu")).warnings)
    for config in (IncrementConfig(instant=True), IncrementConfig(recipe="lda"), QUICK):
        remove_class(home, "Bag")
        warned = _add(home, photos, config.model_copy(update={"time_budget_seconds": 9.0})).warnings
        assert any("no effect" in line and "time_budget_seconds" in line for line in warned)


def test_lda_is_streaming_lda_on_the_frozen_backbone(home: Home, make_photos: PhotoMaker) -> None:
    before = home.open_bundle().arrays()
    _add(home, make_photos("Bag", "Shirt", count=10), QUICK.model_copy(update={"recipe": "lda"}))
    after = home.open_bundle().arrays()
    backbone = [name for name in before if name.startswith("backbone.")]
    assert all(np.array_equal(before[name], after[name]) for name in backbone)
    assert np.array_equal(before["statistics.means"][:6], after["statistics.means"][:6])
    assert after["statistics.photos"] - before["statistics.photos"] == 20
    assert after["statistics.counts"].tolist() == [100] * 6 + [10] * 2 + [0] * 24
    assert np.array_equal(after["probe.head_inputs"], before["probe.head_inputs"])
    statistics = ClassStatistics.from_bundle(home.open_bundle())
    weight, bias = statistics.solve_head(8)
    np.testing.assert_allclose(after["head.weight"][:8], weight, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(after["head.bias"][:8], bias, rtol=1e-3, atol=1e-2)
    assert not after["head.weight"][8:].any()


def test_a_trained_backbone_has_a_probe_of_its_own(measured_home: Home, make_photos: PhotoMaker) -> None:
    home = measured_home
    before = home.open_bundle().arrays()["probe.head_inputs"]
    _add(home, make_photos("Bag", count=10), QUICK)
    bundle = home.open_bundle()
    probe = bundle.arrays()["probe.head_inputs"]
    assert not np.allclose(probe, before, atol=1e-3)
    assert not bundle.arrays()["measured.total"].any()  # the vendor measured another network
    np.testing.assert_allclose(head_inputs_of_probe(load_network(bundle)), probe, atol=1e-5)


class _Tf32Convolution(nn.Conv2d):
    """Rounds its inputs and weights to mantissas of 10 bits, as torch lets a GPU do."""

    def _conv_forward(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(_rounded_to_tf32(maps), _rounded_to_tf32(weight), bias)


def _rounded_to_tf32(values: Tensor) -> Tensor:
    bits = values.detach().contiguous().view(torch.int32)
    rounded = ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)
    return values + (rounded - values).detach()


def _as_if_a_gpu(network: Network, device: torch.device) -> Network:
    """Stands in for `Network.to`: convolutions round only on the device that plays the GPU."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = _Tf32Convolution if device == _GPU else nn.Conv2d
    return network


_GPU = torch.device("cpu", 0)  # does not compare equal to torch.device("cpu")


@pytest.mark.parametrize("recipe", ["lwm", "lwm-lda"])
def test_a_gpus_rounding_does_not_break_parity(
    recipe: str, home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(open_bundle(BASE_BUNDLE))
    exact, rounded = parity_probe(network).logits, parity_probe(_as_if_a_gpu(network, _GPU)).logits
    # The difference is larger than the parity check allows.
    assert np.abs(rounded - exact).max() > 1e-4 * max(1.0, float(np.abs(exact).max()))

    trained_on: list[bool] = []
    whole = train_increment

    def train(student: Network, *arguments: Any, **options: Any) -> object:
        trained_on.append(any(isinstance(module, _Tf32Convolution) for module in student.modules()))
        return whole(student, *arguments, **options)

    monkeypatch.setattr(trained, "choose_device", lambda device: _GPU)
    monkeypatch.setattr(trained, "train_increment", train)
    monkeypatch.setattr(Network, "to", _as_if_a_gpu)
    report = _add(home, make_photos("Bag", count=10), QUICK.model_copy(update={"recipe": recipe}))
    assert trained_on == [True]
    assert report.parity.largest_difference <= report.parity.tolerance
    bundle = home.open_bundle()
    probe = bundle.arrays()["probe.head_inputs"]
    np.testing.assert_allclose(head_inputs_of_probe(load_network(bundle)), probe, atol=1e-5)


def test_held_back_photos_are_learnt_after_the_head_was_judged_by_them(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[PhotoSet, Learnt]] = []
    evaluate_it = evaluate_student

    def judge(task: task.Task, learnt: Learnt) -> object:
        judged.append((task.photos.to_learn, learnt))
        return evaluate_it(task, learnt)

    before, photos = home.open_bundle(), make_photos("Bag", count=10)
    teacher, known = load_network(before), ClassStatistics.from_bundle(before)
    monkeypatch.setattr(increment_module, "evaluate_student", judge)
    report = _add(home, photos, QUICK.model_copy(update={"recipe": "lda", "held_back": 0.5}))
    assert (report.photos_trained, report.photos_held_back) == (5, 5)

    cache = PixelCache(2**30)
    found = read_photo_folder(photos, before.manifest.preprocessing, cache, min_photos=1)
    all_photos = PhotoSet(list(found.photos[0]), before.manifest.preprocessing, cache)
    [(five, learnt)] = judged
    of_five = known.with_photos(observe(teacher, five, 8).head_inputs, np.full(5, 6)).solve_head(7)
    wanted, logits = of_five.logits(learnt.held_back), learnt.held_back_logits
    # The temperature is that of the head solved from all photos.
    temperature = float((logits * wanted).sum() / (wanted**2).sum())
    np.testing.assert_allclose(logits, temperature * wanted, atol=0.05)
    known.learn(observe(teacher, all_photos, 8).head_inputs, np.full(10, 6))
    after = home.open_bundle().arrays()
    np.testing.assert_allclose(after["statistics.means"][6], known.means[6], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["head.weight"][:7], known.solve_head(7)[0], rtol=1e-3, atol=1e-3)
    assert np.abs(after["head.weight"][:7] - of_five.weight).max() > 0.01


@pytest.mark.parametrize(("recipe", "runs"), [("lda", 1), ("lwm", 2)])
def test_each_photo_is_decoded_once_and_observed_once_by_each_network(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch, recipe: str, runs: int
) -> None:
    decoded: list[Path] = []
    seen: list[int] = []
    read, run, run_backbone = read_photo, Network.activations, Backbone.run

    def counting_read(path: Path, *how: Any) -> np.ndarray:
        decoded.append(path)
        return read(path, *how)

    def counting_run_of(images: np.ndarray) -> None:
        generated = np.array_equal(images, generated_images(28))  # for the probe in the bundle
        is_grey = len(np.unique(images)) == 1
        seen.append(0 if is_grey or generated else len(images))

    def counting_run(self: Network, images: torch.Tensor) -> object:
        counting_run_of(images.cpu().numpy())
        return run(self, images)

    def counting_backbone(self: Backbone, images: np.ndarray, **how: Any) -> object:
        counting_run_of(images)
        return run_backbone(self, images, **how)

    monkeypatch.setattr(photo_set_module, "read_photo", counting_read)
    monkeypatch.setattr(Network, "activations", counting_run)
    monkeypatch.setattr(Backbone, "run", counting_backbone)
    _add(home, make_photos("Bag", "Shirt", count=10), QUICK.model_copy(update={"recipe": recipe}))
    assert len(decoded) == len(set(decoded)) == 20
    assert sum(seen) == 20 * runs


def test_the_ledger_records_every_change(home: Home, make_photos: PhotoMaker) -> None:
    report = _add(home, make_photos("Shirt"))
    ledger = home.open_bundle().manifest.ledger
    assert [entry.increment for entry in ledger.latest] == [0, 1]
    assert [entry.classes for entry in ledger.latest] == [6, 7]
    assert ledger.last is not None and ledger.last.onnx_bytes == report.footprint.onnx_bytes
    assert (
        json.loads(home.current().receipt.read_text())["footprint"]["bundle_bytes"]
        == ledger.last.bundle_bytes
    )


@pytest.mark.parametrize("recipe", ["lda", "lwm"])
def test_drift_is_measured_from_the_earlier_model(home: Home, make_photos: PhotoMaker, recipe: str) -> None:
    before, photos = Classifier(home.current().onnx), make_photos("Bag", "Shirt", count=20)
    report = _add(home, photos, QUICK.model_copy(update={"recipe": recipe, "held_back": 0.5, "force": True}))
    after = Classifier(home.current().onnx)
    distance = report.drift.attention_distance
    assert distance is None if recipe == "lda" else distance  # ONNX Runtime makes no attention maps
    assert 0 < report.drift.probability_change < 0.5
    assert len(before.class_names) == 6 and len(after.class_names) == 8


def test_cuda_is_refused_without_a_gpu(home: Home, make_photos: PhotoMaker) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no GPU"):
        _add(home, make_photos("Shirt"), QUICK.model_copy(update={"device": "cuda"}))


def test_memory_that_runs_out_is_explained(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object, **options: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(trained, "train_increment", exhausted)
    before = state_of(home.path)
    with pytest.raises(ResourceError, match="lower --max-memory"):
        _add(home, make_photos("Shirt"))
    assert state_of(home.path) == before


def test_a_large_held_back_share_leaves_photos_to_learn_from(home: Home, make_photos: PhotoMaker) -> None:
    report = _add(home, make_photos("Shirt", count=5), QUICK.model_copy(update={"held_back": 0.95}))
    assert (report.photos_trained, report.photos_held_back) == (1, 4)


@pytest.mark.parametrize(
    "threshold",
    [
        {"min_new_accuracy": 1.0},
        {"min_base_agreement": 1.0},
        {"min_shipped_accuracy": 1.0},
        {"max_attention_distance": 0.0},
    ],
)
def test_the_gate_refuses_and_force_commits_with_a_warning(
    home: Home, make_photos: PhotoMaker, threshold: dict[str, float]
) -> None:
    before, photos = state_of(home.path), make_photos("Shirt", "Bag", count=20)
    config = QUICK.model_copy(update=threshold)
    with pytest.raises(GateError, match="the old one stays") as caught:
        _add(home, photos, config)
    assert caught.value.exit_code == 6 and len(caught.value.problems) == 1
    assert state_of(home.path) == before
    report = _add(home, photos, config.model_copy(update={"force": True}))
    assert any(line.startswith("forced through the gate: ") for line in report.warnings)


def test_accuracy_on_shipped_classes_is_estimated(measured_home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Shirt", "Bag", count=60)
    forgetful = QUICK.model_copy(update={"recipe": "finetune", "epochs": 6, "force": True})
    shipped = _add(measured_home, photos, forgetful).drift.shipped
    assert shipped is not None
    true = evaluate(measured_home, DEMO_DATA / "test" / "base").accuracy
    low, high = shipped.interval
    assert low <= true <= high and high < 0.9
    report = json.loads(measured_home.current().receipt.read_bytes())
    assert any("estimated to be right" in line for line in report["warnings"])


@pytest.mark.slow
def test_long_jobs_and_names_that_are_not_utf_8_reach_the_worker(home: Home, tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="does not exist"):
        add_classes(home, tmp_path / os.fsdecode(b"no\xff"), QUICK)
    photos = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff photos"))
    for number, source in enumerate(sorted((DEMO_DATA / "train").glob("*/*"))[:8]):
        folder = photos / f"class {number}"
        folder.mkdir(parents=True)
        for photo in sorted(source.iterdir())[:6]:
            shutil.copy(photo, folder)
        for bad in range(20):
            (folder / os.fsdecode(b"%02d" % bad + b"\xff" * 240 + b".png")).write_bytes(b"no image")
    report = add_classes(home, photos, QUICK)
    assert any("is not a JPEG" in line for line in report.skipped)
    content = report.model_dump_json()
    assert len(json.loads(content)["new_classes"]) == 8
    assert len(content) > 131_072  # Linux's limit on one argument of a command


def test_without_shipped_classes_nothing_is_estimated(home: Home, make_photos: PhotoMaker) -> None:
    _add(home, make_photos("Shirt"), QUICK.model_copy(update={"recipe": "lda"}))
    for name in home.open_bundle().manifest.class_names[:-1]:
        remove_class(home, name, shipped=True)
    photos = make_photos("Bag", folder="others")
    gate = {"recipe": "lda", "min_shipped_accuracy": 0.9}
    assert _add(home, photos, QUICK.model_copy(update=gate)).drift.shipped is None


@pytest.mark.parametrize("recipe", ["lwm-lda"])
def test_settings_that_leave_nothing_to_train_are_refused(
    home: Home, make_photos: PhotoMaker, recipe: str
) -> None:
    blocks = len(load_network(home.open_bundle()).blocks())
    config = QUICK.model_copy(update={"recipe": recipe, "frozen_blocks": blocks})
    with pytest.raises(ConfigError, match="nothing to train"):
        _add(home, make_photos("Shirt"), config)


@pytest.mark.parametrize("executable", ["", "/opt/kiosk/kiosk"])
def test_an_app_that_embeds_python_is_never_started_as_a_worker(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(ConfigError, match=r"is not a Python interpreter.* pass isolate=False"):
        add_classes(home, tmp_path)

"""ONNX Runtime computes the same features as the vendor's torch; an engine that does not is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lwm_edge import BaseConfig, build_base
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import ExportError, ParityError
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.running import FeatureExtractor, observe
from lwm_edge.model.backbone import Backbone
from lwm_edge.model.bundle import Bundle, open_bundle, save_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.tensors import PROBE
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from tests.support.pages import ROOT

BUNDLE = open_bundle(BASE_BUNDLE)
GROCERY = ROOT.parent / "shared" / "data" / "grocery" / "train"


def grown(
    bundle: Bundle, runs: FeatureExtractor, photos: PhotoSet
) -> tuple[ClassStatistics, np.ndarray, np.ndarray]:
    """Learns from photos of new classes; returns the statistics, and the photos' logits and features."""
    features, labels = observe(runs, photos, 4).head_inputs, np.array(photos.labels)
    statistics = ClassStatistics.from_bundle(bundle)
    statistics.learn(features, labels)
    head = statistics.solve_head(labels.max() + 1)
    return statistics, head.logits(features), features


def new_photos(bundle: Bundle, folder: Path) -> PhotoSet:
    manifest = bundle.manifest
    found = read_photo_folder(
        folder, manifest.preprocessing, PixelCache(0), min_photos=1, first_label=len(manifest.class_names)
    )
    return PhotoSet([p for photos in found.photos for p in photos], manifest.preprocessing, PixelCache(2**28))


def assert_same(bundle: Bundle, photos: PhotoSet) -> None:
    """Compares statistics, logits and predictions from ONNX Runtime with those from torch."""
    of_torch, logits, _ = grown(bundle, load_network(bundle), photos)
    of_runtime, other_logits, _ = grown(bundle, Backbone(bundle), photos)
    largest, condition = np.abs(logits).max(), np.linalg.cond(of_torch.covariance + 1e-12)
    assert np.abs(logits - other_logits).max() <= (1e-5 + 1e-8 * condition) * largest
    assert (logits.argmax(1) == other_logits.argmax(1)).all()
    scale = np.abs(of_torch.means).max()
    assert np.abs(of_torch.means - of_runtime.means).max() <= 1e-5 * scale
    assert np.abs(of_torch.covariance - of_runtime.covariance).max() <= 1e-5 * scale**2


def test_statistics_logits_and_predictions_are_those_of_torch() -> None:
    assert_same(BUNDLE, new_photos(BUNDLE, DEMO_DATA / "train" / "1"))


@pytest.mark.extended
@pytest.mark.skipif(not GROCERY.is_dir(), reason="the photos of groceries are not here")
def test_the_same_holds_for_photos_of_groceries(tmp_path: Path) -> None:
    folders = sorted(path for path in GROCERY.iterdir() if len(list(path.iterdir())) >= 30)
    for name, some in (("base", folders[:6]), ("new", folders[6:10])):
        for folder in some:
            (tmp_path / name / folder.name).mkdir(parents=True)
            for photo in sorted(folder.iterdir())[:20]:
                shutil.copy(photo, tmp_path / name / folder.name)
    config = BaseConfig(
        architecture="efficientnet_lite0", weights="imagenet", image_size=128, epochs=1, frozen_blocks=22
    )
    build_base(tmp_path / "base", tmp_path / "base.lwm", config)
    bundle = open_bundle(tmp_path / "base.lwm")
    assert_same(bundle, new_photos(bundle, tmp_path / "new"))


def test_nothing_changes_if_the_engine_computes_different_features(tmp_path: Path) -> None:
    arrays = BUNDLE.arrays()
    arrays[PROBE] = arrays[PROBE] * np.float32(1.001)
    other = save_bundle(tmp_path / "other.lwm", arrays, BUNDLE.manifest)
    with pytest.raises(
        ParityError, match=r"differ by .* from those that torch computed .* nothing was changed"
    ):
        Backbone(other)


def test_a_graph_that_cannot_be_run_is_an_error_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(content: bytes) -> object:
        raise RuntimeError("no kernel for this operator")

    monkeypatch.setattr("lwm_edge.model.backbone.open_session", broken)
    with pytest.raises(ExportError, match="cannot be loaded by ONNX Runtime: no kernel"):
        Backbone(BUNDLE)

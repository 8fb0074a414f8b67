from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm_edge import evaluate, predict
from lwm_edge.cli import display
from lwm_edge.demo import DEMO_DATA
from lwm_edge.errors import HomeError, PhotosError
from lwm_edge.home.home import Home
from lwm_edge.model.evaluation import evaluate_predictions
from lwm_edge.model.loading import load_network
from tests.support.folders import PhotoMaker, photo_folder
from tests.support.samples import batch_of, photo_set

TEST_PHOTOS = sorted((DEMO_DATA / "test" / "base").glob("*/00[0-9].png"))


def test_most_photos_are_named_right(home: Home) -> None:
    report = predict(home, TEST_PHOTOS)
    right = [str(p.photo).split("/")[-2] == p.class_names[0] for p in report.predictions]
    assert len(right) == 60 and np.mean(right) > 0.8
    best = report.predictions[0]
    assert len(best.class_names) == 3 and list(best.probabilities) == sorted(best.probabilities, reverse=True)


def test_predictions_are_those_of_the_network(home: Home) -> None:
    photos = photo_set("base", count=3)
    with torch.no_grad():
        expected = load_network(home.open_bundle())(batch_of(photos)[0])[1].argmax(1)
    names = home.open_bundle().manifest.class_names
    report = predict(home, [photo.path for photo in photos.photos], top_k=1)
    assert [p.class_names for p in report.predictions] == [(names[i],) for i in expected]


def test_a_bad_photo_is_reported_along_with_the_others(home: Home, tmp_path: Path) -> None:
    report = predict(home, [TEST_PHOTOS[0], tmp_path / "none.png", TEST_PHOTOS[1]])
    assert [bool(p.error) for p in report.predictions] == [False, True, False]
    with pytest.raises(PhotosError, match="none of the photos"):
        predict(home, [tmp_path / "none.png"])


def test_evaluate_tells_old_from_new(home: Home) -> None:
    report = evaluate(home, DEMO_DATA / "test" / "base")
    assert report.photos == 300 and report.new_accuracy is None
    assert report.old_accuracy == report.accuracy == pytest.approx(np.mean(list(report.per_class.values())))
    assert report.accuracy > 0.88 and report.top5_accuracy is not None and report.top5_accuracy > 0.99
    assert report.photos_per_class == dict.fromkeys(report.per_class, 50) and not report.left_out


def test_evaluate_leaves_out_folders_that_are_no_class_and_says_so(
    home: Home, make_photos: PhotoMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo_folder(make_photos("Bag", "Shirt"), {"coat": "Bag"})
    report = evaluate(home, folder)
    assert report.left_out == ("Bag", "Shirt") and report.photos_per_class == {"Coat": 8}
    display.evaluation(report)
    shown = capsys.readouterr()
    assert "of 8 photos" in shown.out and "does not know these classes: Bag, Shirt" in shown.err
    shutil.rmtree(folder / "coat")
    with pytest.raises(PhotosError, match=r"is a class of the model, which knows: Coat") as caught:
        evaluate(home, folder)
    assert caught.value.problems == ("Bag", "Shirt")


def test_accuracy_is_a_mean_over_classes() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    predictions = np.array([0, 0, 2, 1, 2, 1])
    report = evaluate_predictions(predictions, labels, ["a", "b", "c"], shipped_classes=2)
    assert report.per_class == {"a": pytest.approx(2 / 3), "b": 1.0, "c": 0.5}
    assert report.old_accuracy == pytest.approx((2 / 3 + 1) / 2) and report.new_accuracy == 0.5
    assert report.accuracy == pytest.approx((2 / 3 + 1 + 0.5) / 3)
    assert {(c.actual, c.predicted, c.photos) for c in report.confusions} == {("a", "c", 1), ("c", "b", 1)}


def test_reading_needs_no_torch(home: Home) -> None:
    code = (
        "import sys, lwm_edge; from pathlib import Path\n"
        f"home = lwm_edge.open_home(Path({str(home.path)!r}))\n"
        f"lwm_edge.predict(home, [Path({str(TEST_PHOTOS[0])!r})]); lwm_edge.info(home)\n"
        "from lwm_edge.cli import commands; from lwm_edge.increment import worker\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_predicted_without_the_current_generation(home: Home) -> None:
    shutil.rmtree(home.current().path)
    with pytest.raises(HomeError):
        predict(home, TEST_PHOTOS)

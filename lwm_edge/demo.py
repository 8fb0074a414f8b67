"""Runs `lwm-edge demo`: increments on real images that ship with the package, in about a minute.

Starting from a base of six classes of Fashion-MNIST (Xiao et al. 2017, MIT licence), it adds two classes and
then two more, once with each of three recipes. It compares the results with those of two baselines on the
base's frozen backbone.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np

from . import durability
from .base.config import BaseConfig
from .errors import HomeError
from .home.changes import init_home
from .home.home import Home, open_home
from .home.ownership import CURRENT
from .home.readers import info
from .increment.add import add_classes
from .learning.baselines import NearestClassMean, StreamingLda
from .learning.config import IncrementConfig, RecipeName
from .learning.discriminant import Labels
from .learning.running import observe
from .model.bundle import open_bundle
from .model.classifier import Classifier
from .model.evaluation import evaluate_predictions
from .model.loading import load_network
from .photos.folders import read_photo_folder
from .photos.photo_set import PhotoSet, PixelCache
from .proofs.auditor import audit
from .proofs.reports import AuditReport
from .records import AnyNamePath, AnyPath, ProgressCallback, Report, ignore_progress

DEMO_DATA = Path(__file__).parent / "demo_data"
BASE_BUNDLE = DEMO_DATA / "base.lwm"
BASE_CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal")
INCREMENTS = (("Shirt", "Sneaker"), ("Bag", "Ankle boot"))  # the data set's own order
GROUPS = ("base", "1", "2")  # folders of train/ and test/: the base's classes, then each increment's
BASE_CONFIG = BaseConfig(
    architecture="small_resnet20", image_size=28, capacity=32, epochs=40, held_back=0, device="cpu", grid=3
)
_BATCH_SIZE = 64
_PIXEL_CACHE_BYTES = 64 * 2**20
_RECIPES: tuple[RecipeName | Literal["auto"], ...] = ("auto", "lwm", "finetune")


class DemoRow(Report):
    """Reports one method's accuracy on the test photos before the first increment and after each.

    Attributes:
        method: Name of a recipe or a baseline.
        old: Accuracy on the shipped classes.
        new: Accuracy on the added classes; None before the first increment.
        all: Accuracy on all classes.
    """

    method: str
    old: tuple[float, ...]
    new: tuple[float | None, ...]
    all: tuple[float, ...]


class DemoReport(Report):
    """Reports what `run_demo` measured.

    Attributes:
        rows: One row per method.
        increments: Classes added by each increment.
        bundle_bytes: Length of model.lwm before the first increment and after each.
        onnx_bytes: Length of classifier.onnx before the first increment and after each.
        home_bytes: Length of all files and links in the home before the first increment and after each.
        home: Home in which the default recipe was used; the lengths above are those in this home.
        onnx: Exported classifier in that home.
        audit_passed: Whether that home passed the audit each time.
        seconds: Wall-clock time of the whole demo.
    """

    rows: tuple[DemoRow, ...]
    increments: tuple[tuple[str, ...], ...]
    bundle_bytes: tuple[int, ...]
    onnx_bytes: tuple[int, ...]
    home_bytes: tuple[int, ...]
    home: AnyNamePath
    onnx: AnyNamePath
    audit_passed: bool
    seconds: float


def run_demo(folder: AnyPath, *, on_progress: ProgressCallback = ignore_progress) -> DemoReport:
    """Adds four classes in two increments, and measures the accuracy on old and new classes each time.

    Args:
        folder: Folder for the model homes, one per recipe; homes of an earlier demo are replaced.
        on_progress: Function that is called at every step of the increments.

    Raises:
        HomeError: The folder has a home that is not the demo's, or a home cannot be made in the folder.
        LwmEdgeError: An increment fails for one of the reasons that `add_classes` lists.
    """
    started = time.monotonic()
    folder = Path(folder)
    durability.require_safe_changes("make homes in", folder)
    test = _read_photos("test")
    runs = {recipe: _run_recipe(recipe, folder / recipe, test, on_progress) for recipe in _RECIPES}
    rows = [row for row, _ in runs.values()]
    train = _read_photos("train")
    rows.append(_run_baseline("frozen, nearest mean", NearestClassMean(), train, test))
    rows.append(_run_baseline("frozen, streaming LDA", StreamingLda(capacity=16, d=64), train, test))
    default = IncrementConfig().recipe
    home, audits = open_home(folder / default), runs[default][1]
    return DemoReport(
        rows=tuple(rows),
        increments=INCREMENTS,
        bundle_bytes=tuple(a.bundle_bytes for a in audits),
        onnx_bytes=tuple(a.bytes_by_owner()["onnx file"] for a in audits),
        home_bytes=tuple(a.total_bytes for a in audits),
        home=home.path,
        onnx=home.onnx,
        audit_passed=all(a.passed for a in audits),
        seconds=time.monotonic() - started,
    )


def _read_photos(split: str) -> list[PhotoSet]:
    """Reads the photos of each group; classes are numbered as the increments will number them."""
    preprocessing = open_bundle(BASE_BUNDLE).manifest.preprocessing
    cache = PixelCache(_PIXEL_CACHE_BYTES)
    sets, classes = [], 0
    for group in GROUPS:
        folder = read_photo_folder(
            DEMO_DATA / split / group, preprocessing, cache, min_photos=1, first_label=classes
        )
        classes += len(folder.class_names)
        sets.append(PhotoSet([p for photos in folder.photos for p in photos], preprocessing, cache))
    return sets


def _run_recipe(
    recipe: RecipeName | Literal["auto"], folder: Path, test: list[PhotoSet], on_progress: ProgressCallback
) -> tuple[DemoRow, list[AuditReport]]:
    home = _start_over(folder)
    predictions, audits = [_predict(home, test[:1])], [audit(home)]
    for step, group in enumerate(GROUPS[1:], start=2):
        config = IncrementConfig(recipe=recipe, force=True)  # bad results belong in the table too
        receipt = add_classes(home, DEMO_DATA / "train" / group, config, on_progress=on_progress)
        predictions.append(_predict(home, test[:step]))
        audits.append(audit(home))
    method = recipe if recipe == receipt.recipe else f"{recipe}: {receipt.recipe}"
    return _row(method, predictions, test), audits


def _start_over(folder: Path) -> Home:
    """Makes a fresh home from the demo's base; refuses to replace a home that knows other classes."""
    ours = {*BASE_CLASSES, *(name for names in INCREMENTS for name in names)}
    if (folder / CURRENT).is_symlink() and (others := set(info(folder).class_names) - ours):
        names = ", ".join(sorted(others))
        raise HomeError(
            f"{folder} is a model home that knows {names}, so it is not the demo's; choose another folder"
        )
    init_home(BASE_BUNDLE, folder, replace=(folder / CURRENT).is_symlink())
    return open_home(folder)


def _predict(home: Home, sets: list[PhotoSet]) -> Labels:
    classifier = Classifier(home.current().onnx)
    return np.concatenate([classifier.predict(photos) for photos in sets])


def _run_baseline(
    method: str, baseline: NearestClassMean | StreamingLda, train: list[PhotoSet], test: list[PhotoSet]
) -> DemoRow:
    """Runs a baseline on the shipped backbone's last features; it learns the base's classes as well."""
    network = load_network(open_bundle(BASE_BUNDLE))
    last = slice(network.level_values, None)
    predictions = []
    for step, photos in enumerate(train, start=1):
        baseline.learn(observe(network, photos, _BATCH_SIZE).head_inputs[:, last], np.array(photos.labels))
        features = [observe(network, photos, _BATCH_SIZE).head_inputs[:, last] for photos in test[:step]]
        predictions.append(baseline.predict(np.concatenate(features)))
    return _row(method, predictions, test)


def _row(method: str, predictions: list[Labels], test: list[PhotoSet]) -> DemoRow:
    reports = []
    for step, predicted in enumerate(predictions, start=1):
        labels = np.array([label for photos in test[:step] for label in photos.labels])
        class_names = [str(label) for label in range(labels.max() + 1)]
        reports.append(evaluate_predictions(predicted, labels, class_names, len(BASE_CLASSES)))
    return DemoRow(
        method=method,
        old=tuple(report.old_accuracy or 0.0 for report in reports),
        new=tuple(report.new_accuracy for report in reports),
        all=tuple(report.accuracy for report in reports),
    )

"""Photos of classes that training does not see decide whether pretrained weights are trained further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lwm_edge.base import choose_frozen
from lwm_edge.base.choose_frozen import choose_frozen_blocks, few_photos_accuracy
from lwm_edge.base.config import BaseConfig
from lwm_edge.base.ranks import Ranks
from lwm_edge.base.reports import FrozenReport
from lwm_edge.cli import display
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.photos.photo_set import PhotoSet
from lwm_edge.records import Progress, ProgressCallback, ignore_progress
from tests.support.networks import fresh_network
from tests.support.samples import photo_set

PRETRAINED = BaseConfig(architecture="small_resnet20", weights="imagenet", grid=0)


class Trainer:
    """Stands in for training: returns a given network, and remembers what it was to be trained on."""

    def __init__(self, result: Network | None = None) -> None:
        self.result, self.seen = result, list[PhotoSet]()

    def __call__(self, photos: PhotoSet, on_progress: ProgressCallback) -> Network:
        assert self.result, "nothing was to be trained"
        self.seen.append(photos)
        on_progress(Progress(phase="train", done=1, total=1))
        return self.result.student(trains=False)


def _trained() -> Network:
    """Returns the demo's network, whose head reads the last maps alone here."""
    network, fresh = load_network(open_bundle(BASE_BUNDLE)), fresh_network("small_resnet20")
    fresh.backbone.load_state_dict(network.backbone.state_dict())
    return fresh


def _choose(network: Network, photos: PhotoSet, trainer: Trainer, **settings: Any) -> FrozenReport:
    config = PRETRAINED.model_copy(update=settings)
    return choose_frozen_blocks(network, photos, config, trainer, Ranks(), ignore_progress)


@pytest.mark.parametrize("training_helps", [True, False])
def test_weights_are_trained_further_only_if_that_helps_with_other_classes(training_helps: bool) -> None:
    good, bad = _trained(), fresh_network("small_resnet20")
    start, trainer = (bad, Trainer(good)) if training_helps else (good, Trainer(bad))
    report = _choose(start, photo_set("base", count=20), trainer)
    assert (report.frozen, report.blocks) == (0 if training_helps else 12, 12)
    better, worse = ("trained", "frozen") if training_helps else ("frozen", "trained")
    assert report.accuracy[better] > report.accuracy[worse] + 0.1
    assert start.levels is None and start.head.in_features == 64  # only copies read levels in the trial


@pytest.mark.parametrize(
    ("lost", "frozen"),
    [
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0),
        ([0.1, 0.0, 0.0, 0.0, 0.0, 0.0], 0),  # by no more than the standard error of the difference
        ([0.1, 0.1, 0.0, 0.0, 0.0, 0.0], 12),
        ([-0.1, -0.1, -0.1, 0.1, 0.1, 0.1], 0),
    ],
)
def test_weights_are_left_as_they_are_only_if_that_is_clearly_better(
    lost: list[float], frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[int]()

    def accuracy(inputs: object, labels: object, stand_ins: list[int], level_values: int) -> list[float]:
        calls.append(0)
        return [0.9 - (lost[index] if len(calls) % 2 == 0 else 0) for index in stand_ins]

    monkeypatch.setattr(choose_frozen, "few_photos_accuracy", accuracy)
    report = _choose(_trained(), photo_set("base", count=4), Trainer(_trained()))
    assert report.frozen == frozen and report.accuracy["frozen"] == pytest.approx(0.9)
    assert report.accuracy["trained"] == pytest.approx(0.9 - sum(lost) / 6)


def test_each_class_is_left_out_of_one_training() -> None:
    photos, trainer, phases = photo_set("base", count=12), Trainer(_trained()), list[str]()
    config = PRETRAINED.model_copy(update={"seed": 4})
    choose_frozen_blocks(
        _trained(), photos, config, trainer, Ranks(), lambda progress: phases.append(progress.phase)
    )
    first, second = ({photo.path for photo in seen.photos} for seen in trainer.seen)
    assert not first & second and first | second == {photo.path for photo in photos.photos}
    assert all(sorted(set(seen.labels)) == [0, 1, 2] for seen in trainer.seen)
    assert set(phases) == {"trial"}


def test_the_trial_takes_a_limited_number_of_classes_and_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_frozen, "MAX_CLASSES", 5)
    monkeypatch.setattr(choose_frozen, "MAX_PHOTOS", 7)
    trainer = Trainer(_trained())
    _choose(_trained(), photo_set("base", count=20), trainer)  # six classes: every second one takes part
    assert [len(set(seen.labels)) for seen in trainer.seen] == [1, 2]
    assert all(seen.labels.count(label) == 7 for seen in trainer.seen for label in set(seen.labels))


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [({"frozen_blocks": 3}, 3), ({"frozen_blocks": 0}, 0), ({"weights": None}, 0), ({"rotations": True}, 0)],
)
def test_the_photos_decide_only_what_is_open(settings: dict[str, Any], frozen: int) -> None:
    report = _choose(_trained(), photo_set("base"), Trainer(), **settings)
    assert report == FrozenReport(frozen=frozen, blocks=12, accuracy={})


def test_fewer_than_four_classes_of_several_photos_decide_nothing() -> None:
    photos = photo_set("base")
    few = [p for p in photos.photos if p.label < 3] + [p for p in photos.photos if p.label == 3][:1]
    report = _choose(_trained(), PhotoSet(few, photos.preprocessing, photos.cache), Trainer())
    assert report == FrozenReport(frozen=0, blocks=12, accuracy={})


def test_a_head_that_knows_few_photos_is_judged_on_the_others() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 12)
    centres = 10 * np.eye(4)[labels]
    clear, noise = centres + generator.normal(size=(48, 4)), generator.normal(size=(48, 4))
    stand_ins = np.array([1, 3])
    assert few_photos_accuracy(clear, labels, stand_ins).tolist() == [1, 1]
    assert 0.05 < few_photos_accuracy(noise, labels, stand_ins).mean() < 0.45
    # Of two photos, one is learnt from, and the other one judges.
    pair = np.concatenate([np.flatnonzero(labels != 1), np.flatnonzero(labels == 1)[:2]])
    assert few_photos_accuracy(clear[pair], labels[pair], np.array([1])) == 1


def test_the_report_says_why_weights_were_trained_or_left() -> None:
    accuracy = {"frozen": 0.925, "trained": 0.96}
    trained = display._frozen(FrozenReport(frozen=0, blocks=12, accuracy=accuracy))
    assert trained.startswith("trained further") and "96.0% with trained weights, 92.5% without" in trained
    assert "not clearly worse" not in trained
    level = display._frozen(FrozenReport(frozen=0, blocks=12, accuracy={**accuracy, "trained": 0.92}))
    assert level.startswith("trained further") and "92.5% without; that is not clearly worse" in level
    left = display._frozen(FrozenReport(frozen=12, blocks=12, accuracy={**accuracy, "trained": 0.9}))
    assert left.startswith("left as they were") and "90.0% with trained weights, 92.5% without" in left

"""An owner is told in words how an increment went, judged by photos that the head had not learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lwm_edge import add_classes, evaluate, rename_class
from lwm_edge.demo import DEMO_DATA
from lwm_edge.errors import GateError
from lwm_edge.home.home import Home
from lwm_edge.increment import instant
from lwm_edge.increment.judgement import (
    hopeless_classes,
    judge_new_classes,
    warn_about_near_copies,
    warn_about_new_classes,
    warn_about_unequal_classes,
)
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.config import IncrementConfig
from lwm_edge.learning.discriminant import Discriminant
from lwm_edge.learning.near_copies import NearCopies
from lwm_edge.learning.unseen import Unseen, judge_unseen
from tests.support.folders import PhotoMaker, state_of

NAMES = ("Coat", "Dress", "Bag", "Shirt")
LDA = IncrementConfig(recipe="lda", device="cpu")


def judged(*found: int, label: int = 2) -> tuple:
    return judge_new_classes(np.array(found), np.full(len(found), label), NAMES, range(2, 4))


def test_each_new_class_is_counted() -> None:
    bag, shirt = judged(2, 2, 1, 3, 3, 2)
    assert (bag.class_name, bag.photos, bag.right) == ("Bag", 6, 3)
    assert (bag.taken_for, bag.photos_taken) == ("Shirt", 2)
    assert (shirt.class_name, shirt.photos, shirt.taken_for) == ("Shirt", 0, None)


@pytest.mark.parametrize(
    ("found", "warnings"),
    [
        ((2, 2, 2, 2, 1), []),
        (
            (2, 2, 3, 3, 1, 0),
            [
                "Bag was recognised in only 2 of 6",
                "2 of 6 photos of Bag were mistaken for Shirt, which is new",
            ],
        ),
        ((2, 2, 2, 2, 0, 0), ["2 of 6 photos of Bag were mistaken for Coat, which the model knew"]),
        ((2, 2, 1), ["Bag was recognised in 2 of 3 photos, which are too few"]),
    ],
)
def test_warnings_say_how_badly_a_class_is_recognised(found: tuple[int, ...], warnings: list[str]) -> None:
    given = list(warn_about_new_classes(judged(*found)[:1], NAMES[:2]))
    assert len(given) == len(warnings) and all(w in g for w, g in zip(warnings, given, strict=True))


def test_no_class_is_called_hopeless_on_too_few_photos() -> None:
    (reason,) = hopeless_classes(judged(2, 1, 0, 3, 0)[:1], 4)
    assert reason == "Bag: 1 of 5 photos recognised, no better than chance; 2 were mistaken for Coat"
    assert not hopeless_classes(judged(2, 2, 0, 3, 0)[:1], 4)
    (reason,) = hopeless_classes(judged(0, 0, 0, 0, 2, 0, 1)[:1], 4)
    assert reason == "Bag: 1 of 7 photos recognised, no better than chance; 5 were mistaken for Coat"
    assert not hopeless_classes(judged(1, 0, 3)[:1], 4)


def test_very_unequal_classes_are_named_with_their_numbers_of_photos() -> None:
    counts = np.array([200.0, 40.0, 5.0, 0.0])
    (warning,) = warn_about_unequal_classes(NAMES[:3], counts)
    assert "Bag has 5 photos and Coat 200" in warning
    assert not warn_about_unequal_classes(NAMES[:2], counts)


def test_each_photo_is_judged_by_a_head_that_had_not_learnt_it() -> None:
    """Random labels are recognised only by chance, however well a head fits the photos that it learnt."""
    generator = np.random.default_rng(0)
    noise, labels = generator.normal(size=(200, 150)), np.repeat([0, 1, 2, 3], 50)
    nothing = ClassStatistics.empty(4, 150)
    fitted = nothing.with_photos(noise, labels).discriminant(4, noise, labels)
    assert (judge_unseen(fitted, 4).logits.argmax(1) == labels).mean() < 0.4
    assert (fitted.head.logits(noise).argmax(1) == labels).mean() > 0.8
    assert not nothing.photos  # only a copy of the statistics has learnt from the photos


def test_the_receipt_counts_every_photo_where_nothing_trains(home: Home, make_photos: PhotoMaker) -> None:
    report = add_classes(home, make_photos("Bag", "Sneaker", count=20), LDA, isolate=False)
    assert [(c.class_name, c.photos) for c in report.judged] == [("Bag", 20), ("Sneaker", 20)]
    assert all(c.right >= 14 for c in report.judged)


def test_only_held_back_photos_count_where_the_backbone_trains(home: Home, make_photos: PhotoMaker) -> None:
    trained = LDA.model_copy(update={"recipe": "lwm", "epochs": 1, "force": True})
    report = add_classes(home, make_photos("Shirt", count=20), trained, isolate=False)
    assert [(c.class_name, c.photos) for c in report.judged] == [("Shirt", 4)]


def test_copies_of_a_shipped_class_are_said_to_look_like_it(home: Home, tmp_path: Path) -> None:
    (tmp_path / "new" / "Jacket").mkdir(parents=True)
    for photo in sorted((DEMO_DATA / "train" / "base" / "Coat").iterdir())[:30]:
        (tmp_path / "new" / "Jacket" / photo.name).write_bytes(photo.read_bytes())
    report = add_classes(home, tmp_path / "new", LDA.model_copy(update={"force": True}), isolate=False)
    assert any("photos of Jacket were mistaken for Coat, which the model knew" in w for w in report.warnings)


def test_a_class_that_is_recognised_by_chance_is_refused_unless_forced(
    home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(solved: Discriminant, *rest: object) -> Unseen:
        photos = len(solved.features)
        return Unseen(np.eye(1, 7) * np.ones((photos, 1)), np.zeros(photos))

    monkeypatch.setattr(instant, "judge_unseen", wrong)
    photos, before = make_photos("Bag", count=10), state_of(home.path)
    with pytest.raises(GateError) as refused:
        add_classes(home, photos, LDA, isolate=False)
    assert refused.value.problems == (
        "Bag: 0 of 10 photos recognised, no better than chance; 10 were mistaken for Coat",
    )
    assert state_of(home.path) == before
    report = add_classes(home, photos, LDA.model_copy(update={"force": True}), isolate=False)
    assert f"forced through the gate: {refused.value.problems[0]}" in report.warnings


def test_the_estimate_starts_from_what_the_vendor_measured(
    measured_home: Home, make_photos: PhotoMaker
) -> None:
    report = add_classes(measured_home, make_photos("Bag", count=10), LDA, isolate=False)
    shipped = report.drift.shipped
    assert shipped is not None and shipped.photos == 300
    assert shipped.measured == pytest.approx(0.94) and shipped.now == pytest.approx(0.92, abs=0.05)
    assert shipped.now is not None
    low, high = shipped.interval
    assert 0.08 < high - low < 0.15 and low < shipped.now < high
    crowded = add_classes(
        measured_home, make_photos("Shirt", "Sneaker", folder="more", count=60), LDA, isolate=False
    )
    assert crowded.drift.shipped is not None and crowded.drift.shipped.measured == pytest.approx(0.94)
    true = evaluate(measured_home, DEMO_DATA / "test" / "base").accuracy
    low, high = crowded.drift.shipped.interval
    assert low <= true <= high


def test_a_renamed_class_does_not_change_what_the_vendor_measured(
    measured_home: Home, make_photos: PhotoMaker
) -> None:
    rename_class(measured_home, "Coat", "Jacket")
    shipped = add_classes(measured_home, make_photos("Bag", count=10), LDA, isolate=False).drift.shipped
    assert shipped is not None and shipped.before == shipped.measured == pytest.approx(0.94)


def test_without_measurements_no_accuracy_on_shipped_classes_is_estimated(
    home: Home, make_photos: PhotoMaker
) -> None:
    photos = make_photos("Bag", count=10)
    with pytest.raises(GateError) as refused:
        add_classes(home, photos, LDA.model_copy(update={"min_shipped_accuracy": 0.5}), isolate=False)
    assert "cannot be estimated here, but min_shipped_accuracy is set" in refused.value.problems[0]
    assert add_classes(home, photos, LDA, isolate=False).drift.shipped is None


@pytest.mark.slow
def test_fine_tuning_that_loses_shipped_classes_is_refused_unless_forced(home: Home) -> None:
    before = state_of(home.path)
    config = IncrementConfig(recipe="finetune", epochs=2, device="cpu")
    with pytest.raises(GateError) as refused:
        add_classes(home, DEMO_DATA / "train" / "1", config, isolate=False)
    said = "would be lost: judging by its statistics, the new model recognises it no better than chance"
    lost = {problem.removesuffix(f" {said}") for problem in refused.value.problems if problem.endswith(said)}
    assert lost and state_of(home.path) == before and refused.value.exit_code == 6
    report = add_classes(home, DEMO_DATA / "train" / "1", config.model_copy(update={"force": True}))
    assert {f"forced through the gate: {name} {said}" for name in lost} <= set(report.warnings)
    found = evaluate(home, DEMO_DATA / "test" / "base").per_class
    assert all(found[name] < 0.3 for name in lost)


def _make_burst(photo: Path, folder: Path, count: int = 14) -> None:
    """Makes nearly equal photos of one thing, like those of a camera's burst mode."""
    folder.mkdir(parents=True)
    with Image.open(photo) as image:
        for number in range(count):
            lit = ImageEnhance.Brightness(image.convert("RGB")).enhance(0.94 + 0.01 * number)
            lit.save(folder / f"{number}.jpg", quality=70 + 2 * number)


@pytest.mark.parametrize("recipe", ["lda", pytest.param("lwm", marks=pytest.mark.slow)])
def test_the_owner_is_warned_of_a_class_of_near_copies_and_not_of_sound_ones(
    home: Home, make_photos: PhotoMaker, recipe: str
) -> None:
    photos = make_photos("Shirt", "Sneaker", count=30)
    _make_burst(DEMO_DATA / "train" / "2" / "Bag" / "000.png", photos / "Bag")
    config = IncrementConfig.model_validate({"recipe": recipe, "epochs": 1, "force": True, "device": "cpu"})
    report = add_classes(home, photos, config, isolate=False)
    (warning,) = [text for text in report.warnings if "nearly the same" in text]
    assert "of 14 photos of Bag are nearly the same as another one" in warning
    assert "take photos that differ" in warning and "add-photos" in warning


def test_copies_beside_enough_different_photos_give_no_warning() -> None:
    assert list(warn_about_near_copies(NAMES, [2] * 14, {2: NearCopies(13, 1)}))
    assert not list(warn_about_near_copies(NAMES, [2] * 40, {2: NearCopies(30, 10)}))
    assert not list(warn_about_near_copies(NAMES, [2] * 8, {2: NearCopies(4, 4)}))

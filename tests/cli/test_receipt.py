"""Receipts are short; an interrupted increment resumes with its options, or is dropped with a warning."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import IncrementConfig, add_classes, info, plan_increment, remove_class
from lwm_edge.base.reports import LevelsReport, TriedLevels
from lwm_edge.cli import display, receipt
from lwm_edge.errors import ConfigError, PhotosError, StoppedError
from lwm_edge.home.home import Home
from lwm_edge.increment.learn import learn_classes
from lwm_edge.model.manifest import Levels
from lwm_edge.records import Progress, ignore_progress
from tests.support.folders import PhotoMaker, photo_folder

CHOSEN = IncrementConfig(recipe="lwm", epochs=2, batch_size=4, micro_batch_size=16, gamma=0.2, device="cpu")


def _interrupt(home: Home, photos: Path) -> None:
    asked = iter(range(1, 1000))
    with home.lock(), pytest.raises(StoppedError):
        learn_classes(home, photos, CHOSEN, ignore_progress, lambda: next(asked) == 2)


@pytest.mark.slow
def test_an_interrupted_increment_resumes_without_retyped_options(
    home: Home, make_photos: PhotoMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos("Bag", "Shirt")
    assert info(home).interrupted is None
    _interrupt(home, photos)
    left_off = info(home).interrupted
    assert left_off is not None and left_off.step == 2 and left_off.photos == photos
    assert left_off.resume == f"lwm-edge add-classes {photos} --home {home.path}"
    display.info(info(home))
    assert left_off.resume in capsys.readouterr().out

    seen: list[Progress] = []
    resumed = add_classes(home, photos, on_progress=seen.append, isolate=False)
    assert resumed.recipe == "lwm" and resumed.gamma == 0.2 and resumed.training is not None
    assert resumed.training.epochs == 2
    assert next(p.done for p in seen if p.phase == "train") == 3
    assert info(home).interrupted is None
    receipt.new_classes(resumed)
    plain = capsys.readouterr().out
    assert "Learnt 2 classes in" in plain and ": Bag and Shirt" in plain
    assert "lwm: the network was trained, in 2 passes over the photos" in plain
    receipt.new_classes(resumed, details=True)
    detailed = capsys.readouterr().out
    for words in ("Drift", "attention moved by", "gamma 0.2", "Peak memory", "Verified", "Model digest"):
        assert words in detailed and words not in plain
    assert "photos at once" not in detailed
    halved = resumed.training.model_copy(update={"micro_batch_size": 4})
    receipt.new_classes(resumed.model_copy(update={"training": halved}), details=True)
    assert "4 photos at once (the GPU had no memory for 16)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_refusal_says_which_setting_differs_or_that_the_photos_do(
    home: Home, make_photos: PhotoMaker
) -> None:
    photos = make_photos("Bag", "Shirt")
    _interrupt(home, photos)
    with pytest.raises(ConfigError, match="interrupted at step 2") as refused:
        add_classes(home, photos, IncrementConfig(epochs=3), isolate=False)
    assert refused.value.problems == ("epochs is 3 now, and was 2 before",)
    next((photos / "Bag").iterdir()).unlink()
    with pytest.raises(ConfigError) as refused:
        plan_increment(home, photos)
    assert refused.value.problems == (
        f"the photos are not those of the interrupted increment, which were in {photos}",
    )


@pytest.mark.slow
def test_a_change_says_that_it_drops_an_interrupted_increment(
    home: Home, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    photos = make_photos("Bag")
    _interrupt(home, photos)
    (warning,) = remove_class(home, "Coat", shipped=True).warnings
    assert "interrupted at step 2" in warning and f"lwm-edge add-classes {photos}" in warning
    assert not home.training.exists()


def test_advice_on_shipped_classes_works_as_printed(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="to remove it anyway") as refused:
        remove_class(home, "coat")
    command = refused.value.message.rpartition(": ")[2]
    place = ["--home", str(home.path)]
    assert shlex.split(command) == ["lwm-edge", "remove-class", "Coat", "--shipped", *place]
    photos = photo_folder(tmp_path / "coats", {"Coat": "Bag"})
    with pytest.raises(PhotosError) as known:
        add_classes(home, photos, isolate=False)
    assert f"({command})" in known.value.problems[0] and "add-photos" not in known.value.problems[0]
    name, *options = shlex.split(command)[2:]
    remove_class(home, name, shipped=options == ["--shipped", *place])
    assert add_classes(home, photos, isolate=False).new_classes == ("Coat",)


def test_a_long_receipt_begins_with_the_worst_classes(
    home: Home, make_photos: PhotoMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt = add_classes(home, make_photos("Bag"), isolate=False)
    one: Any = learnt.judged[0]
    judged = tuple(one.model_copy(update={"class_name": f"C{i}", "right": i % 9}) for i in range(40))
    names = tuple(c.class_name for c in judged)
    receipt.new_classes(learnt.model_copy(update={"judged": judged, "new_classes": names}))
    shown = capsys.readouterr().out
    assert "Learnt 40 classes" in shown and "C0: 0 of 8 photos recognised" in shown and "C1: 1 of 8" in shown
    assert "and 28 more, each recognised in at least 25.0% of its photos" in shown
    assert "give more photos of C0, C1" in shown


def test_a_grid_that_is_not_the_best_is_explained() -> None:
    tried = tuple(
        TriedLevels(levels=Levels(blocks=(3,), grid=grid, values=16 * grid**2), accuracy=accuracy)
        for grid, accuracy in ((1, 0.925), (2, 0.933))
    )
    coarse, fine = (display._levels(LevelsReport(levels=t.levels, inputs=80, tried=tried)) for t in tried)
    assert "1x1 92.5%, 2x2 93.3%; no finer grid is clearly better" in coarse and "clearly" not in fine

"""More photos of known classes are learnt as if all had come at once, and only if the vendor permits it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lwm_edge import (
    Classifier,
    IncrementConfig,
    add_classes,
    add_photos,
    audit,
    info,
    init_home,
    open_home,
    plan_increment,
    remove_class,
    undo,
)
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ConfigError, GateError, PhotosError
from lwm_edge.home.home import Home
from lwm_edge.model.bundle import open_bundle, save_bundle
from lwm_edge.model.tensors import COUNTS, PHOTOS, TOTAL
from tests.support.folders import DEMO_DATA, PhotoMaker, save_permitting, state_of
from tests.support.samples import QUICK, WITHOUT_LEVELS

LDA = IncrementConfig(recipe="lda", device="cpu")
FEW = LDA.model_copy(update={"min_photos": 2, "force": True})


def logits_of(home: Home) -> np.ndarray:
    """Returns the logits of 32 random pictures, as the home's ONNX file computes them."""
    size = home.open_bundle().manifest.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    return np.asarray(Classifier(home.current().onnx).run(pixels)[0])


def photos_of(folder: Path, first: int, end: int, **classes: str) -> Path:
    """Makes a photo folder from some of the demo's photos of each class."""
    for name, source in classes.items():
        (found,) = (DEMO_DATA / "train").glob(f"*/{source}")
        (folder / name).mkdir(parents=True)
        for photo in sorted(found.iterdir())[first:end]:
            shutil.copy(photo, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("base", [BASE_BUNDLE, WITHOUT_LEVELS], ids=["levels", "last maps"])
def test_photos_that_come_later_are_as_if_all_had_come_at_once(base: Path, tmp_path: Path) -> None:
    classes = {"Bag": "Bag", "Shirt": "Shirt"}
    for name, folders in (("later", ((0, 8), (8, 12), (12, 20))), ("at once", ((0, 20),))):
        init_home(base, tmp_path / name)
        for number, (first, end) in enumerate(folders):
            photos = photos_of(tmp_path / f"{name} photos {number}", first, end, **classes)
            learn = add_photos if number else add_classes
            report = learn(
                tmp_path / name,
                photos,
                LDA.model_copy(update={"min_photos": 2, "force": True}),
                isolate=False,
            )
    assert report.new_classes == ("Bag", "Shirt") and report.known_classes == ()
    later, at_once = open_home(tmp_path / "later"), open_home(tmp_path / "at once")
    found, expected = logits_of(later), logits_of(at_once)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    for name in (COUNTS, PHOTOS):
        count, all_counted = (home.open_bundle().arrays(name)[name] for home in (later, at_once))
        assert np.array_equal(count, all_counted)
    assert audit(later).problems == ()


@pytest.mark.slow
def test_the_receipt_and_the_record_name_the_known_classes(permitting_home: Home, tmp_path: Path) -> None:
    """The class names stay, the ONNX file does not grow, and undo restores the earlier model."""
    add_classes(permitting_home, photos_of(tmp_path / "a", 0, 10, Bag="Bag"), LDA, isolate=False)
    before = permitting_home.open_bundle()
    more = photos_of(tmp_path / "b", 20, 28, bag="Bag", Coat="Coat")
    report = add_photos(permitting_home, more, LDA)  # in a worker process
    after = permitting_home.open_bundle()
    assert report.known_classes == ("Coat", "Bag") and report.new_classes == () and report.recipe == "lda"
    assert [(c.class_name, c.photos) for c in report.judged] == [("Coat", 8), ("Bag", 8)]
    assert (report.photos_trained, report.photos_held_back) == (12, 4)
    assert after.manifest.class_names == before.manifest.class_names == report.class_names
    assert after.arrays(COUNTS)[COUNTS][[0, 6]].tolist() == [108, 18]
    assert report.footprint.onnx_bytes == report.footprint.onnx_bytes_before
    (past,) = info(permitting_home).history[1:]
    assert (past.change, past.class_names, past.classes) == ("add-photos", ("Coat", "Bag"), 7)
    assert audit(permitting_home).problems == ()
    assert undo(permitting_home).model_digest == before.manifest.model_digest


@pytest.mark.slow
def test_measurements_of_a_class_are_dropped_when_it_gets_more_photos(tmp_path: Path) -> None:
    base = open_bundle(save_permitting(BASE_BUNDLE, tmp_path / "permitting.lwm"))
    arrays = base.arrays()
    arrays[TOTAL][:6] = 10
    arrays["measured.confusions"][:2] = [(0, 2, 7), (3, 5, 4)]
    save_bundle(tmp_path / "base.lwm", arrays, base.manifest)
    init_home(tmp_path / "base.lwm", tmp_path / "home")
    photos = photos_of(tmp_path / "photos", 20, 28, Coat="Coat")
    add_photos(tmp_path / "home", photos, LDA, solve_head=True, isolate=False)
    after = open_home(tmp_path / "home").open_bundle().arrays()
    assert after[TOTAL][:6].tolist() == [0, 10, 10, 10, 10, 10]
    assert after["measured.confusions"][:2].tolist() == [[3, 5, 4], [0, 0, 0]]
    assert audit(tmp_path / "home").problems == ()


@pytest.mark.slow
def test_a_trained_head_stays_unless_solve_head_is_set(
    home: Home, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    add_classes(home, make_photos("Bag"), QUICK, isolate=False)
    before, more = state_of(home.path), photos_of(tmp_path / "more", 20, 30, Bag="Bag")
    for plan_only in (False, True):
        with pytest.raises(ConfigError, match=r"the last layer was trained.* pass --solve-head"):
            plan_increment(home, more, more_photos=True) if plan_only else add_photos(
                home, more, isolate=False
            )
    assert state_of(home.path) == before
    assert plan_increment(home, more, more_photos=True, solve_head=True).predicted_peak_rss_bytes
    report = add_photos(home, more, QUICK, solve_head=True, isolate=False)
    assert report.training is None and "further photos" in report.recipe_reason
    assert home.open_bundle().manifest.recipe == "lda"


def test_every_folder_that_may_not_be_learnt_is_named(home: Home, make_photos: PhotoMaker) -> None:
    """The demo's vendor does not permit more photos of shipped classes."""
    before = state_of(home.path)
    photos = make_photos("Coat", "Bag", "Dress", renamed={"dress": "Dress"})
    with pytest.raises(PhotosError) as refused:
        add_photos(home, photos, LDA, solve_head=True, isolate=False)
    assert refused.value.problems == (
        "'dress' and 'Dress' are the same class name; merge the two folders",
        "Bag: the model does not know this class; to teach it, run lwm-edge add-classes "
        f"{photos / 'Bag'} --name Bag --home {home.path}; to use the folders beside it, move this one "
        "elsewhere",
        "Coat: the vendor shipped this class, and does not permit more photos of it (add-photos)",
        "Dress: the vendor shipped this class, and does not permit more photos of it (add-photos)",
        "dress: the vendor shipped this class, and does not permit more photos of it (add-photos)",
    )
    assert state_of(home.path) == before


def test_a_models_only_class_gets_no_more_photos(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag"), LDA, isolate=False)
    for name in home.open_bundle().manifest.vendor_names:
        remove_class(home, name, shipped=True)
    before, more = state_of(home.path), make_photos("Bag", folder="further")
    for solve_head in (False, True):
        with pytest.raises(ConfigError, match=r"^Bag is the model's only class.*add another class first"):
            add_photos(home, more, LDA, solve_head=solve_head, isolate=False)
    assert state_of(home.path) == before
    add_classes(home, make_photos("Shirt", folder="more"), LDA, isolate=False)
    add_photos(home, more, LDA.model_copy(update={"force": True}), isolate=False)


@pytest.mark.slow
def test_photos_of_something_else_do_not_pass_the_gate(permitting_home: Home, tmp_path: Path) -> None:
    before = state_of(permitting_home.path)
    wrong = photos_of(tmp_path / "wrong", 0, 10, Coat="Sandal")
    with pytest.raises(GateError, match="not good enough") as refused:
        add_photos(permitting_home, wrong, LDA, solve_head=True, isolate=False)
    assert any("Coat: 0 of 10 photos recognised" in problem for problem in refused.value.problems)
    assert state_of(permitting_home.path) == before


def test_add_classes_says_where_more_photos_of_known_classes_go(
    home: Home, permitting_home: Home, make_photos: PhotoMaker
) -> None:
    photos = make_photos("Coat")
    with pytest.raises(PhotosError, match="does not permit more photos of it"):
        add_classes(home, photos, LDA, isolate=False)
    with pytest.raises(PhotosError) as refused:
        add_classes(permitting_home, photos, LDA, isolate=False)
    command = f"lwm-edge add-photos {photos / 'Coat'} --name Coat --home {permitting_home.path};"
    assert f"to add more photos of it, run {command}" in refused.value.problems[0]

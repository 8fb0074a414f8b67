"""Known classes are renamed, merged and removed without photos; `exact` refuses an inexact removal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwm_edge import (
    Classifier,
    IncrementConfig,
    add_classes,
    audit,
    info,
    init_home,
    open_home,
    remove_class,
    rename_class,
    undo,
)
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ConfigError
from lwm_edge.home.home import Home
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.model.bundle import open_bundle, save_bundle
from lwm_edge.model.tensors import COUNTS, COVARIANCE, WEIGHT
from tests.support.folders import PhotoMaker, save_permitting, state_of
from tests.support.networks import same_tensors
from tests.support.samples import QUICK, WITHOUT_LEVELS

LDA = IncrementConfig(recipe="lda", device="cpu")
SHIPPED = ("Coat", "Dress", "Pullover", "Sandal", "T-shirt", "Trouser")


def logits_of(home: Home) -> np.ndarray:
    """Returns the logits of 32 random pictures, as the home's ONNX file computes them."""
    size = home.open_bundle().manifest.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    return np.asarray(Classifier(home.current().onnx).run(pixels)[0])


# Renaming


def test_a_new_name_changes_nothing_else(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag"), LDA, isolate=False)
    before, logits = home.open_bundle(), logits_of(home)
    tensors = before.arrays()
    report = rename_class(home, "bag", "Handta\u0301sche")
    after = home.open_bundle()
    assert report.change == "rename-class" and report.changed_classes == ("Bag", "Handt\u00e1sche")
    assert after.manifest.class_names == (*SHIPPED, "Handt\u00e1sche") == report.class_names
    assert same_tensors(tensors, after.arrays()) and np.array_equal(logits_of(home), logits)
    assert after.manifest.renamed == ()  # not a class of the vendor's
    assert (after.manifest.increment_count, after.manifest.parent_digest) == (2, before.manifest.model_digest)
    assert after.manifest.model_digest != before.manifest.model_digest
    assert Classifier(home.onnx).class_names == report.class_names
    assert (home.current().labels).read_text(encoding="utf-8").splitlines()[-1] == "Handt\u00e1sche"
    assert audit(home).problems == ()


def test_a_shipped_class_keeps_the_vendors_name_beside_its_new_one(home: Home) -> None:
    rename_class(home, "Dress", "Kleid")
    rename_class(home, "T-shirt", "Top")
    manifest = home.open_bundle().manifest
    assert manifest.vendor_names == SHIPPED and len(manifest.renamed) == 2
    remove_class(home, "Coat", shipped=True)
    assert home.open_bundle().manifest.vendor_names == SHIPPED[1:]
    assert home.open_bundle().manifest.class_names == ("Kleid", "Pullover", "Sandal", "Top", "Trouser")
    rename_class(home, "Kleid", "Dress")
    rename_class(home, "Top", "T-shirt")
    assert home.open_bundle().manifest.renamed == ()
    assert audit(home).problems == ()


def test_names_can_be_swapped_and_change_case(home: Home) -> None:
    for old, new in (("Coat", "x"), ("Dress", "Coat"), ("x", "Dress"), ("Sandal", "SANDAL")):
        rename_class(home, old, new)
    manifest = home.open_bundle().manifest
    assert manifest.class_names == ("Dress", "Coat", "Pullover", "SANDAL", "T-shirt", "Trouser")
    assert manifest.vendor_names == SHIPPED and audit(home).problems == ()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("Hat", "Cap", "knows no class 'Hat'; it knows: Coat, Dress"),
        ("C\u043eat", "Cap", r"no class 'C.u043eat', only 'Coat', which looks just like it"),
        ("Coat", "Coat", "that class is already called Coat"),
        ("Coat", "dress", "already knows the class Dress; to merge the two, pass --merge"),
        ("Coat", "Dre\u0455s", "looks just like Dress"),
        ("Coat", "a/b", "looks like a path"),
        ("Coat", "", "is empty"),
        ("Coat", "x" * 65, "longer than 64 bytes"),
        ("Coat", "a\u202eb", "change the text direction"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(home: Home, old: str, new: str, why: str) -> None:
    before = state_of(home.path)
    with pytest.raises(ConfigError, match=why):
        rename_class(home, old, new)
    assert state_of(home.path) == before


# Merging


@pytest.mark.slow
@pytest.mark.parametrize("base", [BASE_BUNDLE, WITHOUT_LEVELS], ids=["levels", "last maps"])
def test_merged_classes_are_as_if_learnt_under_one_name(
    base: Path, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    apart, together = make_photos("Bag", "Shirt", folder="apart"), make_photos("Shirt", folder="together")
    for photo in (apart / "Bag").iterdir():
        shutil.copy(photo, together / "Shirt" / f"bag {photo.name}")
    homes = [tmp_path / "apart_home", tmp_path / "together_home"]
    for path, photos in zip(homes, (apart, together), strict=True):
        init_home(base, path)
        add_classes(path, photos, LDA.model_copy(update={"force": True}), isolate=False)
    report = rename_class(homes[0], "Bag", "Shirt", merge=True)
    assert report.change == "merge-classes" and report.changed_classes == ("Bag", "Shirt")
    merged, learnt = (open_home(path) for path in homes)
    assert merged.open_bundle().manifest.class_names == learnt.open_bundle().manifest.class_names
    found, expected = logits_of(merged), logits_of(learnt)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    counts = [home.open_bundle().arrays(COUNTS)[COUNTS] for home in (merged, learnt)]
    assert np.array_equal(counts[0], counts[1]) and counts[0][6] == 16 and audit(merged).problems == ()


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Makes a home whose base has the vendor's measurements, and permits undo and more photos."""
    base = open_bundle(save_permitting(BASE_BUNDLE, tmp_path / "permitting.lwm"))
    arrays = base.arrays()
    for name in ("measured.right", "measured.right_solved", "measured.total"):
        arrays[name][:6] = range(1, 7)
    arrays["measured.confusions"][:3] = [(1, 2, 7), (3, 5, 4), (5, 0, 1)]
    save_bundle(tmp_path / "base.lwm", arrays, base.manifest)
    init_home(tmp_path / "base.lwm", tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.slow
def test_a_shipped_class_can_be_merged_into_another(measured: Path, make_photos: PhotoMaker) -> None:
    """Measurements of the class that grows are dropped, because they no longer describe it."""
    add_classes(measured, make_photos("Bag"), LDA, isolate=False)
    rename_class(measured, "Coat", "Dress", merge=True, shipped=True)
    bundle = open_home(measured).open_bundle()
    arrays = bundle.arrays()
    assert bundle.manifest.shipped_classes == 5 and bundle.manifest.vendor_names == SHIPPED[1:]
    assert arrays["measured.total"].tolist() == [0, 3, 4, 5, 6] + [0] * 27
    assert arrays["measured.confusions"].tolist() == [[2, 4, 4]] + [[0, 0, 0]] * 31
    assert arrays["statistics.counts"][:6].tolist() == [200, 100, 100, 100, 100, 8]
    undo(measured)
    assert open_home(measured).open_bundle().arrays("measured.total")["measured.total"][1] == 2
    assert audit(measured).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "shipped", "why"),
    [
        (
            "Bag",
            "Hat",
            False,
            "knows no class 'Hat'.*, Bag; to rename Bag instead, leave out --merge",
        ),
        ("Bag", "bag", False, "cannot be merged into itself"),
        ("Coat", "Bag", False, "Coat was shipped by the vendor; pass --shipped to merge it anyway"),
        ("Bag", "Coat", False, r"does not permit more photos of it \(add-photos\)"),
    ],
)
def test_classes_that_must_not_be_merged_are_refused(
    home: Home, make_photos: PhotoMaker, old: str, new: str, shipped: bool, why: str
) -> None:
    add_classes(home, make_photos("Bag"), LDA, isolate=False)
    before = state_of(home.path)
    with pytest.raises(ConfigError, match=why):
        rename_class(home, old, new, merge=True, shipped=shipped)
    assert state_of(home.path) == before


@pytest.mark.slow
def test_no_classes_are_merged_if_the_last_layer_was_trained(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag", "Shirt"), QUICK, isolate=False)
    with pytest.raises(ConfigError, match=r"was trained.*--recipe lda or photos with --solve-head"):
        rename_class(home, "Bag", "Shirt", merge=True)
    add_classes(home, make_photos("Sneaker", folder="more"), LDA, isolate=False)
    remove_class(home, "Sneaker")  # this leaves the scale and the centre of the head as they were
    assert rename_class(home, "Bag", "Shirt", merge=True).class_names == (*SHIPPED, "Shirt")


# Removing


def test_a_removal_says_what_remains_of_the_class(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag"), LDA, isolate=False)
    covariance = home.open_bundle().arrays(COVARIANCE)[COVARIANCE]
    added, shipped = remove_class(home, "Bag"), remove_class(home, "Coat", shipped=True)
    assert np.array_equal(home.open_bundle().arrays(COVARIANCE)[COVARIANCE], covariance)
    assert added.remains[0] == "what the 8 photos of Bag, 1.3% of all photos, added to the covariance"
    assert "treat the other classes, until a later" in added.remains[1]
    assert "its name, in the record" in added.remains[2] and len(added.remains) == 3
    assert shipped.remains[-1] == "what the network learnt about the class in training"


@pytest.mark.slow
def test_a_removal_says_what_earlier_training_may_have_left_of_the_class(
    home: Home, make_photos: PhotoMaker
) -> None:
    """A bundle names only the recipe of its latest increment."""
    add_classes(home, make_photos("Bag"), QUICK, isolate=False)
    add_classes(home, make_photos("Shirt", "Sneaker", folder="more"), LDA, isolate=False)
    for name in ("Bag", "Shirt"):
        assert (
            "what the network learnt about the class, if an earlier increment trained"
            in remove_class(home, name).remains[-1]
        )
    shown = remove_class(home, "Coat", shipped=True).remains[-1]
    assert shown == "what the network learnt about the class in training"


def test_the_other_rows_hold_a_share_of_a_removed_class_until_they_are_solved_again(
    home: Home, make_photos: PhotoMaker
) -> None:
    without = home.open_bundle().arrays()
    add_classes(home, make_photos("Bag"), LDA, isolate=False)
    remove_class(home, "Bag")
    kept = home.open_bundle().arrays()
    assert not np.array_equal(kept[WEIGHT][:6], without[WEIGHT][:6])
    add_classes(home, make_photos("Shirt", folder="more"), LDA, isolate=False)
    again = home.open_bundle()
    solved = ClassStatistics.from_bundle(again).solve_head(7)
    np.testing.assert_allclose(again.arrays()[WEIGHT][:7], solved.weight, rtol=1e-4, atol=1e-5)


def test_a_removed_class_is_still_in_the_model_that_undo_returns_to(permitting_home: Home) -> None:
    removed = remove_class(permitting_home, "Coat", shipped=True)
    assert "the whole class, in previous.lwm until the next change" in removed.remains[-1]
    rename_class(permitting_home, "Dress", "Kleid")
    assert "Coat" not in open_bundle(permitting_home.current().previous).manifest.class_names


@pytest.mark.slow
@pytest.mark.parametrize("config", [LDA, QUICK], ids=["solved", "trained"])
def test_after_an_exact_removal_the_model_is_as_if_it_had_never_learnt_the_class(
    permitting_home: Home, make_photos: PhotoMaker, config: IncrementConfig
) -> None:
    add_classes(permitting_home, make_photos("Shirt"), LDA, isolate=False)
    before, logits = permitting_home.open_bundle(), logits_of(permitting_home)
    tensors = before.arrays()
    add_classes(permitting_home, make_photos("Bag", folder="more"), config, isolate=False)
    report = remove_class(permitting_home, "Bag", exact=True)
    after = permitting_home.open_bundle()
    assert report.removed_class == "Bag" and report.class_names == (*SHIPPED, "Shirt")
    assert same_tensors(tensors, after.arrays())
    assert np.array_equal(logits_of(permitting_home), logits)
    assert after.manifest.model_digest == before.manifest.model_digest
    assert after.manifest.increment_count == 3
    previous = permitting_home.current().previous
    assert previous.read_bytes() == permitting_home.current().bundle.read_bytes()
    with pytest.raises(ConfigError, match="nothing to undo"):
        undo(permitting_home)
    assert audit(permitting_home).problems == ()


def _learn(home: Home, photos: Path) -> object:
    return add_classes(home, photos, LDA, isolate=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "name", "why"),
    [
        (lambda home, make: _learn(home, make("Bag", "Shirt")), "Bag", "undo removes all of them"),
        (
            lambda home, make: remove_class(home, "Coat", shipped=True),
            "Dress",
            "only a base that was made without it",
        ),
        (
            lambda home, make: [_learn(home, make("Bag")), rename_class(home, "Coat", "Jacket")],
            "Bag",
            "the latest change did not add it",
        ),
        (
            lambda home, make: [
                _learn(home, make("Bag")),
                _learn(home, make("Shirt", folder="more")),
                remove_class(home, "Shirt", exact=True),
            ],
            "Bag",
            "the model before the latest change is no longer kept",
        ),
        (
            lambda home, make: [_learn(home, make("Bag")), remove_class(home, "Bag"), undo(home)],
            "Bag",
            "the model before it has learnt from the class's photos too",
        ),
        (
            lambda home, make: [
                _learn(home, make("Bag")),
                rename_class(home, "Bag", "Coat", merge=True),
                undo(home),
            ],
            "Bag",
            "the model before it has learnt from the class's photos too",
        ),
        (
            lambda home, make: [
                _learn(home, make("Bag")),
                remove_class(home, "Bag"),
                _learn(home, make("Bag", folder="again")),
            ],
            "Bag",
            "a class was removed earlier, perhaps this one",
        ),
    ],
    ids=[
        "learnt together",
        "shipped",
        "not the latest",
        "not kept",
        "removal undone",
        "merger undone",
        "learnt again",
    ],
)
def test_a_removal_that_cannot_be_exact_is_refused(
    permitting_home: Home, make_photos: PhotoMaker, prepare: Any, name: str, why: str
) -> None:
    prepare(permitting_home, make_photos)
    before = state_of(permitting_home.path)
    with pytest.raises(ConfigError, match=f"cannot be removed exactly, so nothing is changed: .*{why}"):
        remove_class(permitting_home, name, exact=True)
    assert state_of(permitting_home.path) == before


def test_without_undo_nothing_can_be_taken_out_exactly(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag"), LDA, isolate=False)
    with pytest.raises(ConfigError, match="the vendor does not permit undo"):
        remove_class(home, "Bag", exact=True)


# The history


@pytest.mark.slow
def test_the_history_says_what_happened_as_far_as_the_record_reaches(
    permitting_home: Home, make_photos: PhotoMaker
) -> None:
    assert info(permitting_home).history == ()
    add_classes(permitting_home, make_photos("Bag", "Shirt", "Sneaker"), LDA, isolate=False)
    rename_class(permitting_home, "Bag", "Handbag")
    rename_class(permitting_home, "Shirt", "Handbag", merge=True)
    remove_class(permitting_home, "Sneaker")
    undo(permitting_home)
    history = info(permitting_home).history
    told = [(p.increment, p.change, p.class_names, p.more_classes, p.classes) for p in history]
    assert told == [
        (1, "add-classes", ("Bag", "Shirt"), 1, 9),
        (2, "rename-class", ("Bag", "Handbag"), 0, 9),
        (3, "merge-classes", ("Shirt", "Handbag"), 0, 8),
        (4, "remove-class", ("Sneaker",), 0, 7),
        (5, "undo", (), 0, 8),
    ]
    times = [p.time for p in history if p.time]
    assert len(times) == 5 and times == sorted(times) and not history[0].signed_by
    for _ in range(4):
        undo(permitting_home)
    report = info(permitting_home)
    assert [p.increment for p in report.history] == [2, 3, 4, 5, 6, 7, 8, 9] and report.increment_count == 9

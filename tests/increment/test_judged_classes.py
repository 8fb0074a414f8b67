"""The record of how well a class was recognised follows the class until it no longer describes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwm_edge import (
    IncrementConfig,
    add_classes,
    add_photos,
    audit,
    init_home,
    open_home,
    remove_class,
    rename_class,
    undo,
)
from lwm_edge.home.home import Home
from lwm_edge.increment.reports import IncrementReport
from tests.support.folders import PhotoMaker
from tests.support.samples import WITHOUT_LEVELS

LDA = IncrementConfig(recipe="lda", device="cpu", force=True)
Figures = dict[str, tuple[int, int]]


def figures(home: Home) -> Figures:
    manifest = home.open_bundle().manifest
    return {manifest.class_names[c.class_index]: (c.right, c.photos) for c in manifest.judged}


def measured(receipt: IncrementReport) -> Figures:
    return {c.class_name: (c.right, c.photos) for c in receipt.judged}


@pytest.mark.slow
def test_figures_of_earlier_classes_stay_and_follow_every_change(
    permitting_home: Home, make_photos: PhotoMaker
) -> None:
    home, bundle_bytes = permitting_home, permitting_home.current().bundle.stat().st_size
    receipt_bytes = home.current().receipt.stat().st_size
    assert figures(home) == {}
    first = measured(add_classes(home, make_photos("Bag", "Shirt"), LDA, isolate=False))
    second = measured(add_classes(home, make_photos("Sneaker", folder="more"), LDA, isolate=False))
    assert figures(home) == first | second and len(first | second) == 3

    rename_class(home, "Bag", "Handbag")
    renamed = {"Handbag": first["Bag"], "Shirt": first["Shirt"], **second}
    assert figures(home) == renamed
    remove_class(home, "Coat", shipped=True)  # every row after it moves up
    assert figures(home) == renamed
    remove_class(home, "Shirt")
    assert figures(home) == {"Handbag": first["Bag"], **second}
    undo(home)
    assert figures(home) == renamed
    rename_class(home, "Sneaker", "Shirt", merge=True)  # neither figure describes both
    assert figures(home) == {"Handbag": first["Bag"]}
    more = measured(add_photos(home, make_photos("Dress", folder="shipped", count=5), LDA, isolate=False))
    assert figures(home) == {"Handbag": first["Bag"], **more} and set(more) == {"Dress"}
    undo(home)
    assert figures(home) == {"Handbag": first["Bag"]}
    assert home.current().bundle.stat().st_size == bundle_bytes
    assert home.current().receipt.stat().st_size == receipt_bytes
    assert audit(home).problems == ()


@pytest.mark.slow
def test_figures_stay_when_a_later_increment_trains(make_photos: PhotoMaker, tmp_path: Path) -> None:
    init_home(WITHOUT_LEVELS, tmp_path / "home")
    home = open_home(tmp_path / "home")
    first = measured(add_classes(home, make_photos("Bag"), LDA, isolate=False))
    trains = LDA.model_copy(update={"recipe": "lwm", "epochs": 1})
    second = measured(add_classes(home, make_photos("Shirt", folder="more"), trains, isolate=False))
    assert figures(home) == first | second and audit(home).problems == ()

"""Bundles that were shipped stay readable, and compute what they computed.

From the first release on, golden files are never remade.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lwm_edge import add_classes, audit, init_home, open_home, predict
from lwm_edge.demo import DEMO_DATA
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.manifest import Levels
from tests.support.folders import PhotoMaker
from tests.support.samples import QUICK, WITHOUT_LEVELS

FOLDER = WITHOUT_LEVELS.parent
GOLDEN = [
    (WITHOUT_LEVELS.name, "ff9d6575b1220311aa709fc0cf7b7d04fb533abf17c9cfdf5d4628c4c9c0299c", None),
    (
        "bundle-v2-levels.lwm",
        "1d78c60152d84a47ad03710c5c65f48f8b655c11f23e7845422bf6dc837eebbf",
        Levels(blocks=(5, 8), grid=3, values=432),
    ),
]


@pytest.mark.parametrize(("name", "digest", "levels"), GOLDEN)
def test_version_2_opens_and_is_what_it_was(name: str, digest: str, levels: Levels | None) -> None:
    manifest = open_bundle(FOLDER / name).manifest
    assert manifest.schema_version == 2 and manifest.bundle_bytes == (FOLDER / name).stat().st_size
    assert manifest.model_digest == digest and manifest.levels == levels
    assert manifest.class_names == ("Coat", "Dress", "Pullover", "Sandal", "T-shirt", "Trouser")


@pytest.mark.parametrize("name", [name for name, _, _ in GOLDEN])
@pytest.mark.parametrize("recipe", ["lwm", "lda"])
def test_version_2_predicts_what_it_predicted_and_learns(
    name: str, recipe: str, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    init_home(FOLDER / name, tmp_path / "home")
    home = open_home(tmp_path / "home")
    photos = [DEMO_DATA / "test" / "base" / name / "000.png" for name in ("Trouser", "Dress", "Sandal")]
    report = predict(home, photos, top_k=1)
    assert [p.class_names[0] for p in report.predictions] == ["Trouser", "Dress", "Sandal"]
    add_classes(home, make_photos("Bag"), QUICK.model_copy(update={"recipe": recipe}), isolate=False)
    assert home.open_bundle().manifest.bundle_bytes == (FOLDER / name).stat().st_size and audit(home).passed

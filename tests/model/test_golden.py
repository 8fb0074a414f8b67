"""Bundles that were shipped stay readable, and their predictions stay the same.

From the first release on, golden files are never replaced.
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
    (WITHOUT_LEVELS.name, "cf20692d82608a63f9213cf5b1df70404ab984f3395e8d37109a4feee65a989b", None),
    (
        "bundle-v2-levels.lwm",
        "a5caf289530fb222574aa47f182e1e185e5d69f927f24447f1693c65c57668a7",
        Levels(blocks=(5, 8), grid=3, values=432),
    ),
]


@pytest.mark.parametrize(("name", "digest", "levels"), GOLDEN)
def test_version_2_opens_with_the_same_manifest(name: str, digest: str, levels: Levels | None) -> None:
    manifest = open_bundle(FOLDER / name).manifest
    assert manifest.schema_version == 2 and manifest.bundle_bytes == (FOLDER / name).stat().st_size
    assert manifest.model_digest == digest and manifest.levels == levels
    assert manifest.class_names == ("Coat", "Dress", "Pullover", "Sandal", "T-shirt", "Trouser")


@pytest.mark.parametrize("name", [name for name, _, _ in GOLDEN])
@pytest.mark.parametrize("recipe", ["lwm", "lda"])
def test_version_2_predicts_the_same_and_learns(
    name: str, recipe: str, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    init_home(FOLDER / name, tmp_path / "home")
    home = open_home(tmp_path / "home")
    photos = [DEMO_DATA / "test" / "base" / name / "000.png" for name in ("Trouser", "Dress", "Sandal")]
    report = predict(home, photos, top_k=1)
    assert [p.class_names[0] for p in report.predictions] == ["Trouser", "Dress", "Sandal"]
    add_classes(home, make_photos("Bag"), QUICK.model_copy(update={"recipe": recipe}), isolate=False)
    assert home.open_bundle().manifest.bundle_bytes == (FOLDER / name).stat().st_size and audit(home).passed

"""Bundles that were shipped stay readable, and compute what they computed. Golden files are never remade."""

from __future__ import annotations

from pathlib import Path

from lwm_edge import add_classes, audit, init_home, open_home, predict
from lwm_edge.bundle import open_bundle
from lwm_edge.demo import DEMO_DATA
from tests.conftest import QUICK, PhotoMaker

GOLDEN = Path(__file__).parent / "golden" / "bundle-v1.lwm"
DIGEST = "8b94cd34e2db9493406085fb6415daba9517e060dcae7282bd2db6cc22eabf28"


def test_version_1_opens_and_is_what_it_was() -> None:
    manifest = open_bundle(GOLDEN).manifest
    assert manifest.schema_version == 1 and manifest.bundle_bytes == GOLDEN.stat().st_size
    assert manifest.model_digest == DIGEST
    assert manifest.class_names == ("Coat", "Dress", "Pullover", "Sandal", "T-shirt", "Trouser")


def test_version_1_predicts_what_it_predicted_and_learns(tmp_path: Path, make_photos: PhotoMaker) -> None:
    init_home(GOLDEN, tmp_path / "home")
    home = open_home(tmp_path / "home")
    photos = [DEMO_DATA / "test" / "base" / name / "000.png" for name in ("Trouser", "Dress", "Sandal")]
    report = predict(home, photos, top_k=1)
    assert [p.class_names[0] for p in report.predictions] == ["Trouser", "Dress", "Sandal"]
    add_classes(home, make_photos("Bag"), QUICK, isolate=False)
    assert home.open_bundle().manifest.bundle_bytes == GOLDEN.stat().st_size and audit(home).passed

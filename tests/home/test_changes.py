from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lwm_edge import Classifier, add_classes, info, init_home, predict, remove_class
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import ArchitectureError, BundleError, ConfigError
from lwm_edge.home.home import Home
from lwm_edge.model.bundle import open_bundle, save_bundle
from tests.support.folders import PhotoMaker, state_of
from tests.support.samples import QUICK


def test_init_ships_the_base_as_it_is(home: Home) -> None:
    shipped, current = info(BASE_BUNDLE), info(home)
    assert current.model_digest == shipped.model_digest
    assert current.increment_count == 0 and current.ledger.first is not None


def test_a_removed_class_leaves_the_others_as_they_were(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag", "Shirt"), QUICK, isolate=False)
    before = home.open_bundle()
    rows_before = before.arrays()["head.weight"]
    photos = sorted((DEMO_DATA / "test" / "base" / "Trouser").iterdir())[:5]
    logits_before = Classifier(home.current().onnx).run(_pixels(home))[0]

    report = remove_class(home, "Bag")

    after = home.open_bundle()
    assert report.removed_class == "Bag"
    assert after.manifest.class_names == (*before.manifest.class_names[:6], "Shirt")
    assert after.manifest.shipped_classes == 6 and after.manifest.increment_count == 2
    assert after.manifest.parent_digest == before.manifest.model_digest
    assert np.array_equal(after.arrays()["head.weight"][6], rows_before[7])
    assert not after.arrays()["head.weight"][7:].any()
    logits = Classifier(home.current().onnx).run(_pixels(home))[0]
    np.testing.assert_allclose(logits, np.delete(logits_before, 6, axis=1), rtol=1e-5, atol=1e-5)
    assert {p.class_names[0] for p in predict(home, photos).predictions} == {"Trouser"}
    assert home.current().bundle.stat().st_size == before.manifest.bundle_bytes


def _pixels(home: Home) -> np.ndarray:
    size = home.open_bundle().manifest.preprocessing.image_size
    return np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)


def test_the_vendors_measurements_move_with_their_classes(tmp_path: Path) -> None:
    base = open_bundle(BASE_BUNDLE)
    arrays = base.arrays()
    arrays["measured.right"][:6], arrays["measured.total"][:6] = range(6), 10
    arrays["measured.confusions"][:3] = [(1, 2, 7), (3, 5, 4), (5, 0, 1)]
    save_bundle(tmp_path / "base.lwm", arrays, base.manifest)
    init_home(tmp_path / "base.lwm", tmp_path / "home")
    remove_class(tmp_path / "home", base.manifest.class_names[2], shipped=True)
    after = open_bundle(tmp_path / "home" / "current" / "model.lwm").arrays()
    assert after["measured.right"].tolist() == [0, 1, 3, 4, 5] + [0] * 27
    assert after["measured.total"].tolist() == [10] * 5 + [0] * 27
    assert after["measured.confusions"].tolist() == [[2, 4, 4], [4, 0, 1]] + [[0, 0, 0]] * 30
    assert after["statistics.counts"].tolist() == [100] * 5 + [0] * 27


def test_a_shipped_class_is_removed_only_on_request(home: Home) -> None:
    before = state_of(home.path)
    with pytest.raises(ConfigError, match="--shipped"):
        remove_class(home, "Coat")
    assert state_of(home.path) == before
    remove_class(home, "Coat", shipped=True)
    assert home.open_bundle().manifest.shipped_classes == 5


def test_an_unknown_class_is_named_with_the_known_ones(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"no class 'Hat'; it knows: Coat, Dress"):
        remove_class(home, "Hat")


def test_the_last_class_stays(home: Home) -> None:
    for name in home.open_bundle().manifest.class_names[:-1]:
        remove_class(home, name, shipped=True)
    with pytest.raises(BundleError, match="only class"):
        remove_class(home, "Trouser", shipped=True)


@pytest.mark.parametrize("blocks", [(5, 9), (8, 99)])
def test_a_base_whose_levels_do_not_fit_its_head_is_not_trained(
    tmp_path: Path, make_photos: PhotoMaker, blocks: tuple[int, ...]
) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    assert bundle.manifest.levels is not None
    levels = bundle.manifest.levels.model_copy(update={"blocks": blocks})
    manifest = bundle.manifest.model_copy(update={"levels": levels})
    save_bundle(tmp_path / "base.lwm", bundle.arrays(), manifest)
    init_home(tmp_path / "base.lwm", tmp_path / "home")  # the graph is right, so the model can be used
    before = state_of(tmp_path / "home")
    with pytest.raises(ArchitectureError, match="but its head reads 496"):
        add_classes(tmp_path / "home", make_photos("Bag"), QUICK, isolate=False)  # torch cannot train it
    assert state_of(tmp_path / "home") == before

"""The photo doctor finds planted faults, suspects few sound photos, and changes nothing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lwm_edge
from lwm_edge.errors import PhotosError
from lwm_edge.home.home import Home
from lwm_edge.increment.findings import CheckReport
from lwm_edge.records import Progress
from tests.support.folders import DEMO_DATA, PhotoMaker, state_of
from tests.support.plant_faults import PLANTED, SOUND, plant

FAULTS: dict[str, str] = json.loads((PLANTED / "planted.json").read_text())
ORIGINALS = {path.replace(" (1)", "").replace(".jpg", ".png") for path in FAULTS if " (1)" in path}


@pytest.fixture(scope="module")
def report(shipped_home: Path) -> CheckReport:
    return lwm_edge.check_photos(shipped_home, PLANTED)


def kinds(report: CheckReport) -> dict[str, set[str]]:
    """Returns the kinds of faults of each suspect, by its path."""
    return {
        suspect.photo.relative_to(report.folder).as_posix(): {fault.kind for fault in suspect.faults}
        for suspect in report.suspects
    }


def test_at_least_16_of_20_planted_faults_are_found_and_few_sound_photos_suspected(
    report: CheckReport,
) -> None:
    found = kinds(report)
    assert len(FAULTS) == 20 and sum(report.class_photos.values()) == 4 * SOUND + 20
    right = {path for path, kind in FAULTS.items() if kind in found.get(path, ())}
    right |= {
        path  # either of two near-duplicates may be the one to keep
        for path in ORIGINALS
        if "near-duplicate" in found.get(path, ())
    }
    assert len(right) >= 16, set(FAULTS) - right
    sound = set(found) - set(FAULTS) - ORIGINALS
    assert len(sound) <= 0.05 * 4 * SOUND, sound


def test_the_worst_comes_first_and_each_has_its_reason(report: CheckReport) -> None:
    weights = [suspect.weight for suspect in report.suspects]
    assert weights == sorted(weights, reverse=True)
    assert all(fault.reason for suspect in report.suspects for fault in suspect.faults)
    reasons = {fault.reason for suspect in report.suspects for fault in suspect.faults}
    assert "looks like Trouser rather than Bag" in reasons
    assert "is tiny: its short side has 8 pixels, but the network looks at 28" in reasons


def test_the_committed_photos_with_faults_can_be_made_again(tmp_path: Path) -> None:
    plant(tmp_path)
    made, committed = (
        sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*")) for root in (tmp_path, PLANTED)
    )
    assert made == committed
    for name in made[:-1]:
        with Image.open(tmp_path / name) as one, Image.open(PLANTED / name) as other:
            difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))
        assert difference.max() <= (8 if name.endswith(".jpg") else 1), name


def test_nothing_is_changed(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", "Shirt", count=6)
    before = state_of(home.path), state_of(photos)
    lwm_edge.check_photos(home, photos)
    assert (state_of(home.path), state_of(photos)) == before


def test_another_process_may_change_the_home_meanwhile(home: Home, make_photos: PhotoMaker) -> None:
    photos = make_photos("Bag", count=6)
    left = ["Trouser"]

    def rename(progress: Progress) -> None:
        if progress.phase == "check" and left:
            lwm_edge.rename_class(home, left.pop(), "Jeans")

    lwm_edge.check_photos(home, photos, on_progress=rename)
    assert "Jeans" in lwm_edge.info(home).class_names


def test_a_new_class_that_looks_like_a_known_one_is_reported_but_a_known_class_is_not(
    shipped_home: Path, tmp_path: Path
) -> None:
    shutil.copytree(DEMO_DATA / "test" / "base" / "Coat", tmp_path / "Overcoat")
    shutil.copytree(DEMO_DATA / "test" / "base" / "Sandal", tmp_path / "sandal")
    report = lwm_edge.check_photos(shipped_home, tmp_path)
    assert report.class_photos == {"Overcoat": 50, "sandal": 50}
    (pair,) = report.alike
    assert (pair.class_name, pair.other, pair.is_known) == ("Overcoat", "Coat", True)
    assert pair.taken >= 0.25 * pair.photos


def test_two_new_classes_that_look_alike_are_reported(shipped_home: Path, tmp_path: Path) -> None:
    photos = sorted((DEMO_DATA / "test" / "2" / "Bag").iterdir())
    for number, photo in enumerate(photos):
        target = tmp_path / ("Bag", "Case")[number % 2]
        target.mkdir(exist_ok=True)
        shutil.copy(photo, target)
    report = lwm_edge.check_photos(shipped_home, tmp_path)
    assert {(pair.class_name, pair.other, pair.is_known) for pair in report.alike} & {
        ("Bag", "Case", False),
        ("Case", "Bag", False),
    }


def test_a_near_duplicate_in_another_class_is_called_a_contradiction(
    shipped_home: Path, make_photos: PhotoMaker
) -> None:
    pytest.importorskip("imagehash", reason="the extra `check` is not installed")
    photos = make_photos("Bag", "Shirt", count=6)
    with Image.open(photos / "Bag" / "000.png") as image:
        image.save(photos / "Shirt" / "copy.jpg", quality=90)
    report = lwm_edge.check_photos(shipped_home, photos)
    (fault,) = (f for s in report.suspects for f in s.faults if f.kind == "near-duplicate")
    assert "one of the two has the wrong class" in fault.reason


def test_no_blurred_or_mislabelled_photos_are_looked_for_in_a_small_class(
    shipped_home: Path, make_photos: PhotoMaker
) -> None:
    photos = make_photos("Bag", "Shirt", count=4)
    Image.new("RGB", (28, 28), (255, 255, 255)).save(photos / "Bag" / "white.png")
    shutil.rmtree(photos / "Shirt")
    report = lwm_edge.check_photos(shipped_home, photos / "Bag", class_name="Bag")
    assert report.class_photos == {"Bag": 5} and kinds(report)["white.png"] >= {"white"}
    (photos / "Bag" / "000.png").unlink()
    report = lwm_edge.check_photos(shipped_home, photos)
    assert kinds(report) == {"Bag/white.png": {"white"}}
    assert "fewer than 5 photos" in report.notes[0] and "Bag" in report.notes[0]


def test_known_and_new_classes_in_one_folder_are_pointed_out(
    shipped_home: Path, make_photos: PhotoMaker
) -> None:
    report = lwm_edge.check_photos(shipped_home, make_photos("Bag", renamed={"coat": "Shirt"}, count=6))
    (told,) = report.notes
    assert "the model knows coat, but not Bag; put known and new classes into separate folders" in told


def test_without_imagehash_the_rest_is_found_and_one_note_says_so(
    shipped_home: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos("Bag", count=6)
    Image.new("L", (28, 28), 3).save(photos / "Bag" / "dark.png")
    monkeypatch.setitem(sys.modules, "imagehash", None)
    report = lwm_edge.check_photos(shipped_home, photos)
    assert "black" in kinds(report)["Bag/dark.png"]
    assert len(report.notes) == 1 and "pip install imagehash" in report.notes[0]


def test_more_classes_than_the_model_has_room_for_can_be_checked(shipped_home: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(40):
        (tmp_path / f"class {number}").mkdir()
        pixels = generator.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"class {number}" / "photo.png")
    assert len(lwm_edge.check_photos(shipped_home, tmp_path).class_photos) == 40


def test_a_folder_without_photos_is_refused(shipped_home: Path, tmp_path: Path) -> None:
    (tmp_path / "Cup").mkdir()
    with pytest.raises(PhotosError, match="cannot be used"):
        lwm_edge.check_photos(shipped_home, tmp_path)

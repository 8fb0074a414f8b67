"""What an owner's folder holds is said before anything is learnt, and once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lwm_edge.home.home import Home
from tests.support.folders import DEMO_DATA, PhotoMaker


def with_faults(photos: Path) -> Path:
    """Adds a loose photo, one in two classes, one that is none, and a sub-folder to Shirt and Bag."""
    shutil.copy(photos / "Bag" / "000.png", photos / "loose.png")
    shutil.copy(photos / "Bag" / "001.png", photos / "Shirt" / "bag.png")
    (photos / "Bag" / "list.txt").write_text("shopping")
    (photos / "Bag" / "2024").mkdir()
    (photos / "Bag" / "002.png").rename(photos / "Bag" / "2024" / "002.png")
    (photos / "__MACOSX").mkdir()
    return photos


SAID = (
    "Bag includes the files in its sub-folders (2024)",
    "loose.png lies beside the class folders, so it has no class",
    "Bag/001.png and Shirt/bag.png are the same photo in two classes",
    "Bag/list.txt is not a JPEG",
)


def assert_said_once_before(err: str, phase: str) -> None:
    for line in SAID:
        assert err.count(line) == 1 and err.index(line) < err.index(phase), line


def test_a_dry_run_lists_classes_photos_and_what_is_left_out(
    run: Any, home: Home, make_photos: PhotoMaker
) -> None:
    photos = with_faults(make_photos("Shirt", "Bag"))
    planned = run("add-classes", photos, "--home", home.path, "--dry-run")
    assert planned.code == 0
    assert "Bag (7), Shirt (8)" in planned.out
    assert "15 photos of 2 classes (others were left out, see above)" in planned.out
    assert "from the command's start to its end" in planned.out and "MiB predicted" in planned.out
    assert_said_once_before(planned.err, "Planning")
    as_json = run("add-classes", photos, "--home", home.path, "--dry-run", "--json").json
    assert as_json["class_photos"] == {"Bag": 7, "Shirt": 8} and len(as_json["skipped"]) == 3


def test_what_is_left_out_is_said_before_it_is_learnt(run: Any, home: Home, make_photos: PhotoMaker) -> None:
    photos = with_faults(make_photos("Shirt", "Bag"))
    done = run("add-classes", photos, "--home", home.path)
    assert done.code == 0 and "held back (others were left out, see above)" in done.out
    assert_said_once_before(done.err, "Planning")


def test_a_folder_of_photos_alone_becomes_a_class_by_its_name(
    run: Any, home: Home, make_photos: PhotoMaker
) -> None:
    folder = make_photos("Bag") / "Bag"
    refused = run("add-classes", folder, "--home", home.path)
    assert refused.code == 3 and "--name NAME" in refused.err
    done = run("add-classes", folder, "--name", "Hand\u00adbag", "--home", home.path)
    assert done.code == 3 and "cannot be a class name" in done.err
    done = run("add-classes", folder, "--name", "Bag", "--home", home.path, "--json")
    assert done.json["new_classes"] == ["Bag"] and done.json["skipped"] == []
    more = DEMO_DATA / "test" / "2" / "Bag"
    done = run("add-photos", more, "--name", "bag", "--home", home.path, "--json")
    assert done.json["known_classes"] == ["Bag"]


def test_evaluate_asks_for_no_name(run: Any, home: Home) -> None:
    refused = run("evaluate", DEMO_DATA / "test" / "base" / "Coat", "--home", home.path)
    assert refused.code == 3 and "one sub-folder per class" in refused.err and "--name" not in refused.err

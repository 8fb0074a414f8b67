"""Before it learns anything, a command says once what is odd about an owner's folder of photos."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from lwm_edge.home.home import Home
from tests.support.folders import DEMO_DATA, PhotoMaker


def with_faults(photos: Path) -> Path:
    """Adds a loose photo, a photo in two classes, a file that is no photo, and two sub-folders."""
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


def test_a_dry_run_lists_classes_photos_and_left_out_files(
    run: Any, home: Home, make_photos: PhotoMaker
) -> None:
    photos = with_faults(make_photos("Shirt", "Bag"))
    planned = run("add-classes", photos, "--home", home.path, "--dry-run")
    assert planned.code == 0
    assert "Bag (7), Shirt (8)" in planned.out
    assert "15 photos of 2 classes (the notes above say which files were left out)" in planned.out
    assert "Photo cache" not in planned.out and "without --dry-run" in planned.out
    assert "from the command's start to its end" in planned.out and "MiB predicted" in planned.out
    assert_said_once_before(planned.err, "Planning")
    as_json = run("add-classes", photos, "--home", home.path, "--dry-run", "--json").json
    assert as_json["class_photos"] == {"Bag": 7, "Shirt": 8} and len(as_json["skipped"]) == 3


def test_left_out_files_are_named_before_learning_and_a_whole_folder_can_be_one_class(
    run: Any, home: Home, make_photos: PhotoMaker
) -> None:
    folder = make_photos("Bag") / "Bag"
    (folder / "list.txt").write_text("shopping")
    refused = run("add-classes", folder, "--home", home.path)
    assert refused.code == 3 and "--name NAME" in refused.err
    done = run("add-classes", folder, "--name", "Handbag", "--home", home.path)
    assert done.code == 0 and "when it was judged (the notes above say which files were left out)" in done.out
    assert done.err.count("list.txt") == 1 and done.err.index("list.txt") < done.err.index("Planning")
    more = run(
        "add-photos", DEMO_DATA / "test" / "2" / "Bag", "--name", "handbag", "--home", home.path, "--dry-run"
    )
    assert "Handbag (50)" in more.out


def test_a_single_photo_is_counted_in_the_singular(run: Any, home: Home, make_photos: PhotoMaker) -> None:
    one = run("evaluate", make_photos("Coat", count=1), "--home", home.path)
    assert one.code == 0 and "Accuracy on 1 photo, mean over classes" in one.out


def test_evaluate_asks_for_no_name(run: Any, home: Home) -> None:
    refused = run("evaluate", DEMO_DATA / "test" / "base" / "Coat", "--home", home.path)
    assert refused.code == 3 and "one sub-folder per class" in refused.err and "--name" not in refused.err


def test_check_prints_the_worst_first_and_writes_a_page(
    run: Any, home: Home, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    photos = make_photos("Bag", "Shirt")
    Image.new("L", (28, 28), 3).save(photos / "Bag" / "dark [red].png")
    found = run("check", photos, "--home", home.path, "-o", "page.html")
    assert found.code == 0 and "of 17 photos to look at, the worst first" in found.out
    assert "Bag/dark [red].png" in found.out and "is nearly black" in found.out
    assert "add-classes learns from all that remain" in found.out
    assert "dark [red].png" in (tmp_path / "page.html").read_text(encoding="utf-8")
    as_json = run("check", photos, "--home", home.path, "--json").json
    assert as_json["suspects"][0]["photo"].endswith("dark [red].png")
    for page in ("page.txt", "none/page.html"):
        refused = run("check", photos, "--home", home.path, "-o", page)
        assert refused.code == 2 and "Reading photos" not in refused.err


def test_check_names_a_class_as_add_classes_does(
    run: Any, home: Home, make_photos: PhotoMaker, tmp_path: Path
) -> None:
    photos = make_photos("Bag") / "Bag"
    (tmp_path / "lwm-edge.toml").write_text('[increment]\nclass_name = "Handbag"\n')
    assert list(run("check", photos, "--home", home.path, "--json").json["class_photos"]) == ["Handbag"]

"""Folders are read as people keep them, and files left out are named before anything is learnt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lwm_edge.errors import PhotosError
from lwm_edge.photos.folders import PhotoFolder, read_photo_folder
from lwm_edge.photos.photo_set import PixelCache
from lwm_edge.photos.preprocessing import Preprocessing
from tests.support.folders import DEMO_DATA

SIZE = Preprocessing(image_size=28, resize_size=28, mean=(0, 0, 0), std=(1, 1, 1))


class Read:
    """Reads a folder, and keeps the notes that were reported."""

    def __init__(
        self, folder: Path, name: str | None = None, min_photos: int = 1, is_new: bool = False
    ) -> None:
        self.notes: list[str] = []
        self.found: PhotoFolder = read_photo_folder(
            folder,
            SIZE,
            PixelCache(0),
            min_photos=min_photos,
            class_name=name,
            may_be_named=True,
            is_new=lambda _: is_new,
            on_progress=lambda progress: self.notes.extend(progress.notes),
        )

    @property
    def counts(self) -> dict[str, int]:
        return dict(zip(self.found.class_names, map(len, self.found.photos), strict=True))


def refusal(folder: Path, min_photos: int = 1) -> PhotosError:
    with pytest.raises(PhotosError) as caught:
        Read(folder, min_photos=min_photos)
    return caught.value


def put(folder: Path, kind: str = "Coat", numbers: range | tuple[int, ...] = range(3)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        shutil.copy(DEMO_DATA / "train" / "base" / kind / f"{number:03}.png", folder)
    return folder


def test_photos_in_sub_folders_belong_to_the_class_above_them(tmp_path: Path) -> None:
    put(tmp_path / "Cup")
    put(tmp_path / "Cup" / "2024" / "May", numbers=(10, 11))
    put(tmp_path / "Cup" / "2025", numbers=(12,))
    put(tmp_path / "Plate" / "all", "Dress")
    (tmp_path / "Cup" / "2025" / "broken.jpg").write_text("no photo")
    read = Read(tmp_path)
    assert read.counts == {"Cup": 6, "Plate": 3}
    assert read.found.skipped == (
        "Cup/2025/broken.jpg is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image",
    )
    assert read.notes == [
        "Cup includes the files in its sub-folders (2024, 2025)",
        "Plate includes the files in its sub-folders (all)",
        *read.found.skipped,
    ]


def test_files_that_systems_leave_behind_are_neither_classes_nor_bad_photos(tmp_path: Path) -> None:
    put(tmp_path / "Cup")
    folders = ("__MACOSX", "System Volume Information", "$RECYCLE.BIN", "lost+found", "@eaDir", ".Trash-1000")
    for inside in (tmp_path, tmp_path / "Cup"):
        for name in folders:
            put(inside / name, "Dress", (0,))
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "Desktop.ini", "._000.png"):
            (inside / name).write_bytes(b"x")
    read = Read(tmp_path)
    assert (read.counts, read.found.skipped, read.notes) == ({"Cup": 3}, (), [])


def test_files_beside_the_class_folders_are_reported(tmp_path: Path) -> None:
    put(tmp_path / "Cup")
    put(tmp_path, "Dress", range(25))
    read = Read(tmp_path)
    assert read.counts == {"Cup": 3}
    assert read.notes == list(read.found.skipped) and len(read.notes) == 21
    assert read.notes[0] == "000.png lies beside the class folders, so it has no class"
    assert read.notes[20] == "and 5 more files"
    (tmp_path / "Empty").mkdir()
    assert refusal(tmp_path).problems[:2] == (
        "Empty: 0 usable photos; at least 1 is needed",
        "000.png lies beside the class folders, so it has no class",
    )


def test_files_of_other_kinds_hide_no_damaged_photo(tmp_path: Path) -> None:
    put(tmp_path / "Bag", numbers=range(25))
    for number in range(30):
        for ending in ("AAE", "aae", "MOV"):
            (tmp_path / "Bag" / f"IMG_{number}.{ending}").write_text("no photo")
    for path in sorted((tmp_path / "Bag").glob("*.png"))[3:]:
        shutil.copy(path, path.with_stem(f"{path.stem} copy"))
    (tmp_path / "Bag" / "z.jpg").write_bytes(b"\xff\xd8 cut short")
    for name in ("a.txt", "b.txt", "c.jpg"):
        (tmp_path / name).write_text("loose")
    read = Read(tmp_path)
    assert read.found.skipped[:3] == (
        "c.jpg lies beside the class folders, so it has no class",
        "a.txt lies beside the class folders, so it has no class; the same is true of 1 more file that ends "
        "in .txt",
        "Bag/z.jpg is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image",
    )
    assert read.found.skipped[-1] == "and 93 more files"
    for path in (tmp_path / "Bag").glob("* copy.png"):
        path.unlink()
    assert Read(tmp_path).found.skipped[3:] == (
        "Bag/IMG_0.AAE is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image; the same is true of 59 more "
        "files that end in .AAE",
        "Bag/IMG_0.MOV is not a JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC image; the same is true of 29 more "
        "files that end in .MOV",
    )


def test_a_folder_with_only_photos_is_a_class_once_it_is_given_a_name(tmp_path: Path) -> None:
    put(tmp_path / "mugs")
    put(tmp_path / "mugs" / "2024", numbers=(5,))
    shutil.copy(tmp_path / "mugs" / "000.png", tmp_path / "mugs" / "again.png")
    (tmp_path / "mugs" / "elsewhere.png").symlink_to(put(tmp_path / "other", "Dress") / "000.png")
    read = Read(tmp_path / "mugs", "Mug")
    assert read.counts == {"Mug": 4}
    assert read.notes[0] == "Mug includes the files in its sub-folders (2024)"
    assert read.found.skipped == (
        "mugs/elsewhere.png is a link that leads out of the folder",
        "mugs/again.png is a duplicate of mugs/000.png",
    )
    said = refusal(tmp_path / "other").message
    assert said.endswith(
        "has files but no sub-folders; put the photos into one sub-folder per class, or pass --name NAME if "
        "all of them show one class"
    )
    with pytest.raises(PhotosError) as caught:
        Read(tmp_path / "other", "a/b")
    assert caught.value.problems == (
        "'a/b' cannot be a class name: it looks like a path; choose another name",
    )


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("Training", "VAL", "test"), ("train",), ("train2017", "val_set")]
)
def test_a_data_set_in_parts_is_noticed(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        put(tmp_path / part / "Cup")
        put(tmp_path / part / "Plate", "Dress")
    message = refusal(tmp_path).message
    assert (
        "looks like a data set split into parts" in message and f"such as {tmp_path / parts[0]}," in message
    )
    assert Read(tmp_path / parts[0]).counts == {"Cup": 3, "Plate": 3}


def test_trains_with_numbers_are_classes_beside_others(tmp_path: Path) -> None:
    for name, kind in (("train1/left", "Coat"), ("train2/left", "Dress"), ("Bus", "Pullover")):
        put(tmp_path / name, kind)
    assert set(Read(tmp_path).counts) == {"train1", "train2", "Bus"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put(tmp_path / "Train")
    assert Read(tmp_path).counts == {"Train": 3}
    put(tmp_path / "Bus" / "red", "Dress")
    shutil.move(put(tmp_path / "Train"), tmp_path / "t")
    shutil.move(tmp_path / "t", tmp_path / "Train" / "2024")
    assert Read(tmp_path).counts == {"Bus": 3, "Train": 3}


def test_a_folder_one_level_too_high_is_refused_for_new_classes(tmp_path: Path) -> None:
    put(tmp_path / "export" / "Bag")
    put(tmp_path / "export" / "Ankle boot", "Dress")
    (tmp_path / "export" / "read me.txt").write_text("thank you")
    export = tmp_path / "export"
    assert Read(tmp_path).counts == {"export": 6}  # the class of this name may be known
    with pytest.raises(PhotosError) as caught:
        Read(tmp_path, is_new=True)
    assert caught.value.message == (
        f"{tmp_path} seems to be one level too high: its only folder, export, contains folders of photos "
        f"(Ankle boot, Bag) but no photos of its own; give {export}, or, if all these folders show "
        f"one class, pass {export} with --name export"
    )
    assert Read(export, is_new=True).counts == {"Ankle boot": 3, "Bag": 3}
    assert Read(export, "export", is_new=True).counts == {"export": 6}
    put(tmp_path / "export", "Pullover", (7,))
    assert Read(tmp_path, is_new=True).counts == {"export": 7}


def test_the_same_photo_in_two_classes_is_learnt_in_neither(tmp_path: Path) -> None:
    put(tmp_path / "Cup", numbers=range(6))
    put(tmp_path / "Mug" / "2024", "Dress", numbers=range(6))
    shutil.copy(tmp_path / "Cup" / "000.png", tmp_path / "Mug" / "2024" / "x.png")
    shutil.copy(tmp_path / "Cup" / "000.png", tmp_path / "Mug" / "y.png")
    read = Read(tmp_path)
    assert read.counts == {"Cup": 5, "Mug": 6}
    assert read.found.skipped == (
        "Cup/000.png and Mug/2024/x.png are the same photo in two classes, so it is left out of both; keep "
        "it only in the class that it shows",
    )
    problems = refusal(tmp_path, min_photos=6).problems
    assert problems == ("Cup: 5 usable photos; at least 6 are needed", *read.found.skipped)


def test_two_folders_of_the_same_photos_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "Cup", numbers=range(25))
    shutil.copytree(tmp_path / "Cup", tmp_path / "Mug")
    problems = refusal(tmp_path, min_photos=5).problems
    assert problems[:2] == tuple(f"{n}: 0 usable photos; at least 5 are needed" for n in ("Cup", "Mug"))
    assert len(problems) == 2 + 21 and problems[-1] == "and 5 more such photos"


def test_links_to_folders_are_reported_and_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "Cup")
    (tmp_path / "Cup" / "around").symlink_to(tmp_path)
    assert Read(tmp_path).found.skipped == ("Cup/around is a link to a folder, which is not followed",)


def test_a_sub_folder_that_may_not_be_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "Cup")
    closed = put(tmp_path / "Cup" / "2024", "Dress")
    iterdir = Path.iterdir

    def refusing(self: Path):
        if self == closed:  # root can read everything, so a mode of 0 would change nothing
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refusing)
    read = Read(tmp_path)
    assert (read.counts, read.notes) == ({"Cup": 3}, ["Cup/2024 cannot be read (Permission denied)"])


def test_photos_in_a_relative_folder_are_shown_with_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "Cup")
    (tmp_path / "Cup" / "broken.jpg").touch()
    monkeypatch.chdir(tmp_path / "Cup")
    for folder, shown in ((".", "broken.jpg"), ("..", "Cup/broken.jpg"), ("../Cup", "Cup/broken.jpg")):
        name = None if folder == ".." else "Cup"
        assert Read(Path(folder), name).found.skipped == (f"{shown} is empty",), folder

"""Whichever operation on files ends in an input/output error, callers get an error of the tree or success."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lwm_edge import (
    IncrementConfig,
    add_classes,
    add_photos,
    export_onnx,
    info,
    init_home,
    predict,
    remove_class,
    rename_class,
    repair_home,
    undo,
    verify,
)
from lwm_edge.errors import LwmEdgeError
from lwm_edge.home.home import Home, open_home
from tests.support.failing_disk import failing_disk
from tests.support.folders import DEMO_DATA, PhotoMaker, photo_folder, save_permitting
from tests.support.hostile import published
from tests.support.samples import WITHOUT_LEVELS

PHOTO = DEMO_DATA / "test" / "base" / "Coat" / "000.png"
TRIED = 12  # of each verb, evenly spread; each takes up to a few seconds


def _verbs(root: Path, photos: Path) -> dict[str, Callable[[], object]]:
    home, lda = root / "home", IncrementConfig(recipe="lda", device="cpu")
    more = photo_folder(root.parent / "more", {"Coat": "Coat"})
    return {
        "info": lambda: info(home),
        "verify": lambda: verify(home),
        "predict": lambda: predict(home, [PHOTO]),
        "export": lambda: export_onnx(home, root / "o.onnx"),
        "repair": lambda: repair_home(home),
        "init": lambda: init_home(WITHOUT_LEVELS, root / "new"),
        "remove-class": lambda: remove_class(home, "Coat", shipped=True),
        "rename-class": lambda: rename_class(home, "Coat", "Mantel"),
        "undo": lambda: undo(home),
        "add-classes": lambda: add_classes(home, photos, lda, isolate=False),
        "add-photos": lambda: add_photos(home, more, lda, solve_head=True, isolate=False),
    }


@pytest.mark.slow
def test_callers_get_only_errors_of_the_tree_and_none_once_the_model_is_in_place(
    tmp_path: Path, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, photos, tried = tmp_path / "disk", make_photos("Bag"), 0
    shipped = tmp_path / "shipped"
    init_home(save_permitting(WITHOUT_LEVELS, tmp_path / "base.lwm"), shipped)
    rename_class(shipped, "Coat", "Jacke")
    rename_class(shipped, "Jacke", "Coat")  # so that there is something to undo

    def start_over() -> Home:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(shipped, root / "home", symlinks=True)
        (root / "home" / "current" / "labels.txt").unlink()  # so that repair has something to do
        return open_home(root / "home")

    for verb, do in _verbs(root, photos).items():
        start_over()
        with failing_disk(root, None, monkeypatch) as disk:
            do()
        for fails_at in (1 + number * disk.count // TRIED for number in range(TRIED)):
            home = start_over()
            before = home.current()
            failed = False
            with failing_disk(root, fails_at, monkeypatch):
                try:
                    do()
                except LwmEdgeError:
                    failed = True
            tried += 1
            assert not failed or home.current() == before, (verb, fails_at)
            if verb == "init":
                assert not failed or not (root / "new").exists() or not (root / "new/current").exists()
    assert published(
        f"| an operation on files, reads too, that ends in EIO: eleven verbs | {tried} | nothing |"
    )

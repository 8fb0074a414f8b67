"""Runs a command ("verb") while one of its operations on files fails, and checks what callers see."""

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
from lwm_edge.home import measurement
from lwm_edge.home.home import open_home
from tests.support.failing_disk import failing_disk
from tests.support.folders import DEMO_DATA, photo_folder, save_permitting
from tests.support.samples import WITHOUT_LEVELS


class FailingVerbs:
    """Runs verbs on a home that is made again for each run.

    Args:
        folder: Folder for the home, its photos and output files.
        monkeypatch: Patch that makes operations fail.

    Attributes:
        names: Names of the verbs.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._shipped, self._monkeypatch = folder / "disk", folder / "shipped", monkeypatch
        self._photos = photo_folder(folder / "photos", {"Bag": "Bag"}, 8)
        self._more_photos = photo_folder(folder / "more", {"Coat": "Coat"}, 8)
        init_home(save_permitting(WITHOUT_LEVELS, folder / "base.lwm"), self._shipped)
        rename_class(self._shipped, "Coat", "Jacke")
        rename_class(self._shipped, "Jacke", "Coat")  # so that there is something to undo
        # Counting all objects would be slow.
        monkeypatch.setattr(measurement, "count_alive", lambda *sizes: measurement.Alive([], {}, {}))
        self._verbs = self._make_verbs()
        self.names = tuple(self._verbs)

    def _make_verbs(self) -> dict[str, Callable[[], object]]:
        root, home = self._root, self._root / "home"
        photo = DEMO_DATA / "test" / "base" / "Coat" / "000.png"
        config = IncrementConfig(recipe="lda", device="cpu")
        return {
            "info": lambda: info(home),
            "verify": lambda: verify(home),
            "predict": lambda: predict(home, [photo]),
            "export": lambda: export_onnx(home, root / "o.onnx"),
            "repair": lambda: repair_home(home),
            "init": lambda: init_home(WITHOUT_LEVELS, root / "new"),
            "remove-class": lambda: remove_class(home, "Coat", shipped=True),
            "rename-class": lambda: rename_class(home, "Coat", "Mantel"),
            "undo": lambda: undo(home),
            "add-classes": lambda: add_classes(home, root / "photos", config, isolate=False),
            "add-photos": lambda: add_photos(home, root / "more", config, solve_head=True, isolate=False),
        }

    def _start_over(self) -> Path:
        shutil.rmtree(self._root, ignore_errors=True)
        home = self._root / "home"
        shutil.copytree(self._shipped, home, symlinks=True)
        shutil.copytree(self._photos, self._root / "photos")
        shutil.copytree(self._more_photos, self._root / "more")
        (home / "current" / "labels.txt").unlink()  # so that repair has something to do
        return home

    def operations(self, verb: str) -> int:
        """Returns the number of a verb's operations on files."""
        self._start_over()
        with failing_disk(self._root, None, self._monkeypatch) as disk:
            self._verbs[verb]()
        return disk.count

    def problem(self, verb: str, fails_at: int) -> str | None:
        """Makes an operation fail; returns a description of what callers wrongly saw, or None."""
        home = open_home(self._start_over())
        before, failure = home.current(), None
        with failing_disk(self._root, fails_at, self._monkeypatch):
            try:
                self._verbs[verb]()
            except Exception as error:
                failure = error
        if failure and not isinstance(failure, LwmEdgeError):
            return f"raw {type(failure).__name__}: {failure}"
        if failure and str(failure).startswith("unexpected"):
            return f"taken for a bug: {failure}"
        if failure and home.current() != before:
            return f"an error although the new model is in place: {failure}"
        if failure and verb == "init" and (self._root / "new" / "current").exists():
            return f"an error although the home is made: {failure}"
        return None

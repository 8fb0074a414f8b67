from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from lwm_edge import storage
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import BusyError, HomeError
from lwm_edge.home import home as home_module
from lwm_edge.home.changes import init_home
from lwm_edge.home.home import Generation, Home, open_home
from tests.support.folders import state_of


def _write(text: str) -> object:
    def write(generation: Generation) -> None:
        storage.write_file(generation.labels, text.encode())

    return write


def test_a_commit_switches_the_link_and_removes_the_old_generation(home: Home) -> None:
    old = home.current()
    with home.lock():
        home.commit(_write("new"))  # type: ignore[arg-type]
    new = home.current()
    assert new.labels.read_text() == "new"
    assert not old.path.exists()
    assert [path.name for path in (home.path / "generations").iterdir()] == [new.path.name]


def test_a_reader_keeps_the_file_it_has_open(home: Home) -> None:
    with home.current().labels.open() as reader, home.lock():
        home.commit(_write("new"))  # type: ignore[arg-type]
        assert reader.read().startswith("Coat")


def test_a_failing_commit_changes_nothing(home: Home) -> None:
    before = state_of(home.path)

    def fail(generation: Generation) -> None:
        storage.write_file(generation.labels, b"half")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError), home.lock():
        home.commit(fail)
    assert state_of(home.path) == before


def test_what_an_interrupted_writer_left_is_cleared(home: Home) -> None:
    before = state_of(home.path)
    stale = home.path / "generations" / "00000001"
    stale.mkdir()
    storage.staged_path(stale / "model.lwm").write_bytes(b"half")
    storage.staged_path(home.path / "current").symlink_to("generations/00000001")
    with home.lock():
        pass
    assert state_of(home.path) == before


def test_one_writer_at_a_time(home: Home) -> None:
    code = f"from lwm_edge.home.home import *; h = Home(Path({str(home.path)!r}))\nwith h.lock(): print('in')"
    with home.lock():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BusyError" in other.stderr and "in" not in other.stdout
    with pytest.raises(BusyError), home.lock(), home.lock():
        pass


@pytest.mark.parametrize("target", [None, "elsewhere", "generations/7"])
def test_a_folder_without_a_current_model_is_no_home(tmp_path: Path, target: str | None) -> None:
    (tmp_path / "generations").mkdir()
    if target:
        (tmp_path / "current").symlink_to(target)
    with pytest.raises(HomeError, match="lwm-edge init"):
        open_home(tmp_path)


def test_a_link_is_read_as_windows_writes_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before, readlink = home.current(), Path.readlink
    monkeypatch.setattr(Path, "readlink", lambda self: PureWindowsPath(readlink(self)))
    assert "\\" in str((home.path / "current").readlink()) and home.current() == before


@pytest.mark.parametrize("system", ["that can change homes", "that cannot"])
def test_a_home_that_was_copied_without_its_link_is_read_where_it_cannot_be_repaired(
    home: Home, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    only = home.current()
    (home.path / "current").unlink()
    if system == "that can change homes":
        with pytest.raises(HomeError, match="try: lwm-edge repair"):
            home.current()
        return
    monkeypatch.setattr(home_module, "missing_features", lambda: ["file locks"])
    assert home.current() == only and home.onnx == only.onnx
    copy = shutil.copytree(only.path, only.path.with_name("00000001"))
    with pytest.raises(HomeError, match="copy the home again, with its links or with its newest model alone"):
        home.current()
    for folder in (copy, only.path):
        shutil.rmtree(folder)
    with pytest.raises(HomeError, match="make one on Linux or macOS, and copy it here"):
        home.current()


def test_init_refuses_a_home_unless_told_to_replace_it(home: Home) -> None:
    before = state_of(home.path)
    with pytest.raises(HomeError, match="--replace"):
        init_home(BASE_BUNDLE, home.path)
    assert state_of(home.path) == before
    report = init_home(BASE_BUNDLE, home.path, replace=True)
    assert report.class_names == home.open_bundle().manifest.class_names
    assert home.current().path.name == "00000001"


def test_init_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(HomeError, match="not a model home"):
        init_home(BASE_BUNDLE, tmp_path)
    with pytest.raises(HomeError, match=r"diary.txt is a file, not a folder"):
        init_home(BASE_BUNDLE, tmp_path / "diary.txt")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(HomeError, match="is a link that leads nowhere, not a folder"):
        init_home(BASE_BUNDLE, tmp_path / "link")


@pytest.mark.parametrize("name", ["5", "00000000x", "../generations/00000000"])
def test_a_link_edited_by_hand_is_refused_and_nothing_is_lost(home: Home, name: str) -> None:
    (home.path / "current").unlink()
    (home.path / "current").symlink_to(f"generations/{name}")
    (home.path / "generations" / "5").mkdir()
    before = state_of(home.path)
    with pytest.raises(HomeError):
        open_home(home.path)
    with home.lock():
        pass
    assert state_of(home.path) == before


@pytest.mark.parametrize("left", [["lock"], ["lock", "generations/00000000/.model.lwm.lwm-edge"]])
def test_an_interrupted_init_can_be_repeated(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_bytes(b"")
    init_home(BASE_BUNDLE, tmp_path / "home")
    names = [path.name for path in (tmp_path / "home" / "generations").iterdir()]
    assert names == [open_home(tmp_path / "home").current().path.name]


def test_a_reader_overtaken_by_a_commit_starts_over(home: Home) -> None:
    seen: list[str] = []

    def read(generation: Generation) -> str:
        seen.append(generation.path.name)
        if len(seen) == 1:
            with home.lock():
                home.commit(_write("new"))  # type: ignore[arg-type]
        return generation.labels.read_text()

    assert home.read(read) == "new"
    assert seen == ["00000000", "00000001"]


def test_a_reader_overtaken_just_after_it_read_the_link_reads_it_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_link, old = Home._link_name, home.current().path.name

    def overtaken(self: Home) -> str | None:
        monkeypatch.undo()
        with home.lock():
            home.commit(_write("new"))  # type: ignore[arg-type]
        return old

    monkeypatch.setattr(Home, "_link_name", overtaken)
    assert home.current().path.name == "00000001" == read_link(home)


def test_a_failing_clean_up_does_not_undo_a_commit(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with home.lock():
        monkeypatch.setattr(storage, "remove_folder", _refuse)
        home.commit(_write("new"))  # type: ignore[arg-type]
    assert home.current().labels.read_text() == "new"
    monkeypatch.undo()
    with home.lock():
        pass
    assert len(list((home.path / "generations").iterdir())) == 1


def _refuse(path: Path, files: object, last: object = None) -> None:
    raise HomeError("read-only")

"""Whichever operation on disk is interrupted or refused, the home afterwards holds the old model or the new.

These tests visit the states that one interruption of a change can leave; tests/README.md counts the states.
benchmarks/crash_rounds.py interrupts the recoveries, and benchmarks/crash.py kills real processes at random.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lwm_edge import IncrementConfig, add_classes, add_photos, init_home, remove_class, rename_class, undo
from lwm_edge.errors import LwmEdgeError
from lwm_edge.home.home import Home
from lwm_edge.home.ownership import GENERATION_FILES, PREVIOUS, RECEIPT
from tests.support.crash import (
    Action,
    Change,
    commit_files,
    explore,
    explore_add_classes,
    explore_init,
    explore_stop_and_resume,
    files_of,
    init,
    make,
    prepare_once,
    take_lock,
)
from tests.support.disk_model import Disk
from tests.support.fault_layer import Exploration, Recorder, disk_recorded_by, interruptions, record
from tests.support.file_store import Store
from tests.support.folders import PhotoMaker, save_permitting
from tests.support.hostile import published
from tests.support.samples import QUICK, WITHOUT_LEVELS

LDA = IncrementConfig(recipe="lda", device="cpu")


@pytest.fixture(scope="module")
def shipped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a home of the smaller base, because here only the files matter, not what the model knows."""
    path = tmp_path_factory.mktemp("shipped") / "home"
    init_home(WITHOUT_LEVELS, path)
    return path


@pytest.fixture(scope="module")
def permitting_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a home whose vendor permits undo, and changes it once."""
    folder = tmp_path_factory.mktemp("permitting")
    init_home(save_permitting(WITHOUT_LEVELS, folder / "base.lwm"), folder / "home")
    rename_class(folder / "home", "Coat", "Mantel")
    return folder / "home"


def remove(root: Path) -> object:
    return remove_class(root, "Coat", shipped=True)


def assert_published(what: str, explored: tuple[Change, Exploration]) -> None:
    """Asserts that a row in tests/README.md has these numbers of operations, kills, power cuts and disks."""
    change, exploration = explored
    kills, cuts = (exploration.counts[f"{kind} in the change"] for kind in ("kills", "power cuts"))
    how_often = f"{kills:,} kills, {cuts:,} power cuts: {exploration.different:,} different disks"
    assert published(f"{what.format(len(change.operations))} | {how_often} | 0 |")


def test_init_leaves_no_home_or_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_once(monkeypatch)
    explored = explore_init(tmp_path / "home", rounds=1)
    assert_published(
        "before, within and after each of its {} operations on disk; power cut at the same points", explored
    )


def test_add_classes_leaves_the_old_model_or_the_new_one(home: Home, make_photos: PhotoMaker) -> None:
    explored = explore_add_classes(home.path, make_photos("Bag"), rounds=1)
    assert_published("`add-classes` (staging and the commit), at each of its {} operations on disk", explored)


def test_a_stopped_and_resumed_increment_leaves_the_old_model_or_the_new_one(
    home: Home, make_photos: PhotoMaker
) -> None:
    explored = explore_stop_and_resume(home.path, make_photos("Bag"), rounds=1)
    assert_published("stopped after a step, and resumed: at each of its {} operations on disk", explored)


def test_undo_leaves_the_model_and_the_one_before_or_both_exchanged(
    permitting_home: Path, tmp_path: Path
) -> None:
    """Where undo is permitted, every change also writes the model that undo returns to."""
    root = tmp_path / "home"
    shutil.copytree(permitting_home, root, symlinks=True)
    change = make(root, undo)
    assert any(PREVIOUS in part for operation in change.operations for part in operation)
    assert_published(
        "`undo`, which the vendor permits: at each of its {} operations on disk",
        (change, explore(change, take_lock, rounds=1)),
    )


def test_most_changes_of_a_home_do_the_same_on_disk(
    tmp_path: Path, home: Home, make_photos: PhotoMaker
) -> None:
    """What holds for add-classes also holds for add-photos, remove-class, rename-class and init --replace.

    Only add-classes writes its bundle twice here: learning stages it, and committing completes it.
    """
    photos, more = make_photos("Bag"), make_photos("Bag", folder="more")
    store = Store(tmp_path / "store")
    changes: list[Action] = [
        lambda root: add_classes(root, photos, QUICK, isolate=False),
        remove,
        lambda root: rename_class(root, "Dress", "Kleid"),
        lambda root: add_photos(root, more, LDA, solve_head=True, isolate=False),
        lambda root: init_home(WITHOUT_LEVELS, root, replace=True),
    ]
    did = []
    for number, change in enumerate(changes):
        operations = record(store, home.path, functools.partial(change, home.path))
        names = {f"{number:08d}": "old", f"{number + 1:08d}": "new"}
        without_contents = [op[:2] if op[0] == "write" else op for op in operations]
        did.append([tuple(rename_all(part, names) for part in op) for op in without_contents])
    first = next(i for i, op in enumerate(did[1]) if op[0] == "create_file")
    bundle = did[1][first : first + 5]
    assert [op[0] for op in bundle] == ["create_file", "write", "sync_file", "rename", "sync_folder"]
    assert did[0] == [*did[1][:first], *bundle, *did[1][first:]]
    assert did[1] == did[2] == did[3]
    assert [op for op in did[4] if op != ("sync_folder", ".")] == [("sync_folder", "home"), *did[1]]


def rename_all(text: str, names: dict[str, str]) -> str:
    for name, other in names.items():
        text = text.replace(name, other)
    return text


FORGOTTEN = {
    "a file's content is not synced": lambda op: op[0] == "sync_file" and "model.lwm" in op[1],
    "a file's name is not synced": lambda op: op[0] == "sync_folder" and "0000000" in op[1],
    "the generation's name is not synced": lambda op: op == ("sync_folder", "home/generations"),
    "the link is not synced before the old generation goes": lambda op: op == ("sync_folder", "home"),
}


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_a_forgotten_sync_would_be_noticed(home: Home, forgotten: str) -> None:
    change = make(home.path, remove)
    with pytest.raises(AssertionError):
        explore(change, take_lock, rounds=1, forget=FORGOTTEN[forgotten])


def test_the_recovery_from_a_kill_waits_for_the_link_before_it_removes_the_old_model(home: Home) -> None:
    """The process is killed between the link's switch and its sync, and restarted; then the power fails."""
    change = make(home.path, remove)
    switched = change.operations.index(("rename", "home/.current.lwm-edge", "home/current")) + 1
    disk = Disk.holding(change.store, change.before).after(*change.operations[:switched])
    change.store.materialise(disk.visible(), home.path)
    assert files_of(home.path, change.store) == change.new
    recovery = record(change.store, home.path, lambda: take_lock(home.path))
    assert any(operation[0] == "remove_folder" for operation in recovery)
    for interrupted in interruptions(disk, recovery):
        for tree in interrupted.power_cuts():
            change.store.materialise(tree, home.path)
            change.check()


ERRORS = (OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt())


@pytest.mark.parametrize(
    ("action", "row"),
    [
        (init, "(disk full; interrupted), once or from then on, in `init`"),
        (remove, "the same in the commit of `remove-class`"),
        (undo, "the same in the commit of `undo`"),
    ],
)
def test_an_operation_that_fails_leaves_the_old_model_or_the_new_one(
    tmp_path: Path,
    shipped_home: Path,
    permitting_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: Action,
    row: str,
) -> None:
    prepare_once(monkeypatch)
    root = tmp_path / "home"
    if action is not init:
        shutil.copytree(shipped_home if action is remove else permitting_home, root, symlinks=True)
    change = make(root, action)
    positions = range(len(change.operations))
    tried = list(itertools.product(positions, ERRORS, (False, True)))
    for position, error, all_later in tried:
        change.store.materialise(change.before, root)
        failed = fails(change, action, Recorder(root, change.store, position, error, all_later))
        change.check()
        assert failed or files_of(root, change.store) == change.new
        if files_of(root, change.store):
            take_lock(root)
        else:
            init(root)
        change.check_recovered()
    assert published(f"{row} | {len(tried)} | 0 |")


def fails(change: Change, action: Action, recorder: Recorder) -> bool:
    with disk_recorded_by(recorder):
        try:
            action(change.root)
        except (LwmEdgeError, KeyboardInterrupt):
            return True
    return False


def test_readers_during_commits_find_files_of_one_model(home: Home) -> None:
    old = {name: (home.current().path / name).read_bytes() for name in GENERATION_FILES}
    remove(home.path)
    new = {name: (home.current().path / name).read_bytes() for name in GENERATION_FILES}
    digests = {json.loads(files[RECEIPT])["model_digest"] for files in (old, new)}
    command, commits = [sys.executable, "-m", "tests.support.reader", str(home.path), "15"], 0
    pause = 0.02  # otherwise the reader would do nothing but start over
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reader:
        while reader.poll() is None:
            commit_files(home, (old, new)[commits % 2])
            commits += 1
            time.sleep(pause)
            pause *= 1.05  # so that the reader gets to the end, however slow this machine is
        out, err = reader.communicate()
    assert reader.returncode == 0, err
    assert set(out.split()) == digests

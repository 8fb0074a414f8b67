"""Kills, power cuts and refusals at every operation on disk: a home is the old one or the new one.

What this prints is published in tests/README.md. Random kills of real processes are in benchmarks/crash.py.
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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import add_classes, audit, init_home, remove_class, storage
from lwm_edge.errors import HomeError, LwmEdgeError, StoppedError
from lwm_edge.home import changes as home_changes
from lwm_edge.home import measurement
from lwm_edge.home.home import Generation, Home, open_home
from lwm_edge.home.measurement import Alive
from lwm_edge.home.ownership import GENERATION_FILES, RECEIPT
from lwm_edge.increment.learn import learn_classes
from lwm_edge.model.bundle import Arrays, open_bundle
from lwm_edge.model.manifest import Manifest
from lwm_edge.records import ignore_progress
from tests.support.disk_model import Disk, Operation
from tests.support.fault_layer import Exploration, Recorder, interruptions, record, standing_in
from tests.support.file_store import Content, Store, Tree
from tests.support.folders import PhotoMaker
from tests.support.reader import model_digest
from tests.support.samples import QUICK, WITHOUT_LEVELS


@pytest.fixture(scope="module")
def shipped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the smaller base: what is on disk matters here, not what it knows."""
    path = tmp_path_factory.mktemp("shipped") / "home"
    init_home(WITHOUT_LEVELS, path)
    return path


Files = tuple[Content, ...]
Action = Callable[[Path], object]


@dataclass
class Change:
    """A change of a home, made once for real.

    Attributes:
        root: The home.
        store: Of contents.
        before: What lay there.
        operations: What it did on disk.
        old: The home's files before; none where there was no home.
        new: The home's files after.
        recovered: What was found after recoveries.
    """

    root: Path
    store: Store
    before: Tree
    operations: list[Operation]
    old: Files
    new: Files
    recovered: set[Tree] = field(default_factory=set)

    def check(self) -> None:
        """A reader gets the old set or the new set."""
        assert files_of(self.root, self.store) in (self.old, self.new)

    def check_recovered(self) -> None:
        """So does one after recovery, nothing else is left, and the next change works."""
        self.check()
        left = self.store.scan(self.root)
        if left not in self.recovered:
            self.recovered.add(left)
            self._check_recovered_fully()

    def _check_recovered_fully(self) -> None:
        assert_one_model(self.root)
        assert not audit(self.root).problems
        home = open_home(self.root)
        files = {n: self.store.get(content) for n, content in zip(GENERATION_FILES, self.new, strict=True)}
        commit_files(home, files)
        assert files_of(self.root, self.store) == self.new
        assert not audit(self.root).problems


def make(root: Path, action: Action) -> Change:
    """Makes a change and records what it does on disk."""
    store = Store(root.parent / "store")
    before, old = store.scan(root), files_of(root, store)
    operations = record(store, root, lambda: action(root))
    assert_one_model(root)
    change = Change(root, store, before, operations, old, files_of(root, store))
    assert change.old != change.new
    for tree in Disk.holding(store, before).after(*operations).power_cuts():
        store.materialise(tree, root)
        assert files_of(root, store) == change.new, "what was reported as done is lost"
    return change


def files_of(root: Path, store: Store) -> Files:
    """What a reader of the home gets; nothing where there is no home."""
    try:
        generation = open_home(root).current()
    except HomeError:
        return ()
    paths = [generation.path / name for name in GENERATION_FILES]
    assert all(path.is_file() for path in paths), "the current model misses a file"
    return tuple(store.read(path) for path in paths)


def assert_one_model(root: Path) -> None:
    open_home(root).read(model_digest)


def commit_files(home: Home, files: dict[str, bytes]) -> None:
    def write(generation: Generation) -> None:
        for name, content in files.items():
            storage.write_file(generation.path / name, content)

    with home.lock():
        home.commit(write)


def take_lock(root: Path) -> None:
    """What the start of every change does to what an interrupted one left."""
    with Home(root).lock():
        pass


def prepare_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes without training can then be repeated quickly: base and export are verified once."""
    prepare: Callable[..., Any] = home_changes._prepare
    prepared: dict[str, Any] = {}

    def prepare_first(arrays: Arrays, manifest: Manifest, *others: Any, **settings: Any) -> Any:
        key = manifest.model_digest
        if key not in prepared:
            prepared[key] = prepare(arrays, manifest, *others, **settings)
        return prepared[key]

    monkeypatch.setattr(home_changes, "_prepare", prepare_first)
    monkeypatch.setattr(measurement, "count_alive", lambda: Alive([], {}))  # which looks at all objects
    monkeypatch.setattr(home_changes, "open_bundle", functools.cache(open_bundle))


def init(root: Path) -> object:
    return init_home(WITHOUT_LEVELS, root)


def remove(root: Path) -> object:
    return remove_class(root, "Coat", shipped=True)


def explore(
    change: Change,
    recover: Action,
    rounds: int | None,
    forget: Callable[[Operation], bool] = lambda operation: False,
) -> Exploration:
    exploration = Exploration(
        change.store,
        change.root,
        change.check,
        lambda: recover(change.root),
        change.check_recovered,
        rounds,
        forget,
    )
    exploration.run(Disk.holding(change.store, change.before), change.operations)
    assert change.store.is_intact()
    return exploration


def published(what: str, change: Change, exploration: Exploration) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in exploration.counts.items())
    return (
        f"\n{what}: {len(change.operations)} operations; {counts}; {exploration.different:,} different disks"
    )


def test_init_leaves_no_home_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_once(monkeypatch)
    change = make(tmp_path / "home", init)
    assert change.old == ()

    def init_again(root: Path) -> None:
        if files_of(root, change.store):
            take_lock(root)
        else:
            init(root)

    exploration = explore(change, init_again, rounds=2)
    assert all(len(tree) == 9 for tree in change.recovered)  # the lock, and what a home is made of
    with capsys.disabled():
        print(published("init", change, exploration))


def test_add_classes_leaves_the_old_model_or_the_new_one(
    home: Home, make_photos: PhotoMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos("Bag")
    change = make(home.path, lambda root: add_classes(root, photos, QUICK, isolate=False))
    exploration = explore(change, take_lock, rounds=None)
    with capsys.disabled():
        print(published("add-classes", change, exploration))


def test_an_increment_that_was_stopped_and_resumed(
    home: Home, make_photos: PhotoMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos("Bag")

    def stop_and_resume(root: Path) -> None:
        asked = iter([True])
        with Home(root).lock(), pytest.raises(StoppedError):
            learn_classes(Home(root), photos, QUICK, ignore_progress, lambda: next(asked))
        add_classes(root, photos, QUICK, isolate=False)

    change = make(home.path, stop_and_resume)
    assert any("training.safetensors" in part for operation in change.operations for part in operation)
    exploration = explore(change, take_lock, rounds=1)
    with capsys.disabled():
        print(published("stop and resume", change, exploration))


def test_every_change_of_a_home_does_the_same_on_disk(
    tmp_path: Path, home: Home, make_photos: PhotoMaker
) -> None:
    """So what holds for add-classes holds for remove-class and for init --replace.

    An increment writes its bundle twice: staged by the learning process, completed by the committing one.
    """
    photos = make_photos("Bag")
    store = Store(tmp_path / "store")
    changes: list[Action] = [
        lambda root: add_classes(root, photos, QUICK, isolate=False),
        remove,
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
    did[0] = did[1]
    assert [op for op in did[2] if op != ("sync_folder", ".")] == [("sync_folder", "home"), *did[0]]


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
    """Killed between the switch of the link and its sync, started again, and then the power goes."""
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


@pytest.mark.parametrize("action", [init, remove])
def test_an_operation_that_fails_leaves_the_old_model_or_the_new_one(
    tmp_path: Path,
    shipped_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    action: Action,
) -> None:
    prepare_once(monkeypatch)
    root = tmp_path / "home"
    if action is remove:
        shutil.copytree(shipped_home, root, symlinks=True)
    change = make(root, action)
    positions = range(len(change.operations))
    tried = list(itertools.product(positions, ERRORS, (False, True)))
    for position, error, for_ever in tried:
        change.store.materialise(change.before, root)
        failed = fails(change, action, Recorder(root, change.store, position, error, for_ever))
        change.check()
        assert failed or files_of(root, change.store) == change.new
        if files_of(root, change.store):
            take_lock(root)
        else:
            init(root)
        change.check_recovered()
    with capsys.disabled():
        print(f"\n{action.__name__}: {len(tried)} refused operations")


def fails(change: Change, action: Action, recorder: Recorder) -> bool:
    with standing_in(recorder):
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
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reader:
        while reader.poll() is None:
            commit_files(home, (old, new)[commits % 2])
            commits += 1
            time.sleep(0.02)  # or readers would only ever start over
        out, err = reader.communicate()
    assert reader.returncode == 0, err
    assert set(out.split()) == digests

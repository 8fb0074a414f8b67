"""Interrupts a change to a home, by a kill or a power cut, at every operation on disk, and checks the home.

`tests/home/test_crash.py` interrupts a change only once; `benchmarks/crash_rounds.py` also interrupts the
recoveries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import add_classes, audit, init_home, storage
from lwm_edge.errors import HomeError, StoppedError
from lwm_edge.home import changes as home_changes
from lwm_edge.home import measurement
from lwm_edge.home.home import Generation, Home, open_home
from lwm_edge.home.measurement import Alive
from lwm_edge.home.ownership import GENERATION_FILES, PREVIOUS
from lwm_edge.increment.learn import learn_classes
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.manifest import Manifest
from lwm_edge.model.tensors import Arrays
from lwm_edge.records import ignore_progress
from tests.support.disk_model import Disk, Operation
from tests.support.fault_layer import Exploration, record
from tests.support.file_store import Content, Store, Tree
from tests.support.reader import model_digest
from tests.support.samples import QUICK, WITHOUT_LEVELS

Files = tuple[Content, ...]
Action = Callable[[Path], object]


@dataclass
class Change:
    """Describes a change to a home, recorded while it was made once for real.

    Attributes:
        root: Folder of the home.
        store: Store of the files' contents.
        before: Tree of the home before the change.
        operations: Operations of the change on disk.
        old: Files of the home before the change; empty if there was no home.
        new: Files of the home after the change.
        recovered: Trees of the home after recoveries.
    """

    root: Path
    store: Store
    before: Tree
    operations: list[Operation]
    old: Files
    new: Files
    recovered: set[Tree] = field(default_factory=set)

    def check(self) -> None:
        """Checks that a reader gets the old files or the new ones."""
        assert files_of(self.root, self.store) in (self.old, self.new)

    def check_recovered(self) -> None:
        """Checks that a recovery left only the old files or the new ones, and that changes work again."""
        self.check()
        left = self.store.scan(self.root)
        if left not in self.recovered:
            self.recovered.add(left)
            self._check_recovered_fully()

    def _check_recovered_fully(self) -> None:
        assert_one_model(self.root)
        assert not audit(self.root).problems
        home = open_home(self.root)
        names = (*GENERATION_FILES, PREVIOUS)  # the last one only if undo is permitted
        files = {n: self.store.get(content) for n, content in zip(names, self.new, strict=False)}
        commit_files(home, files)
        assert files_of(self.root, self.store) == self.new
        assert not audit(self.root).problems


def make(root: Path, action: Action) -> Change:
    """Makes a change, records its operations on disk, and checks that a power cut cannot undo it."""
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
    """Returns the files that a reader of the home gets; none if there is no home."""
    try:
        generation = open_home(root).current()
    except HomeError:
        return ()
    paths = [generation.path / name for name in GENERATION_FILES]
    assert all(path.is_file() for path in paths), "the current model lacks a file"
    paths += [generation.previous] if generation.previous.exists() else []
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
    """Clears the leftovers of an interrupted change, as every change does when it starts."""
    with Home(root).lock():
        pass


def prepare_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens each bundle and prepares each model only once, so that changes can be repeated quickly."""
    prepare: Callable[..., Any] = home_changes._prepare
    prepared: dict[str, Any] = {}

    def prepare_first(arrays: Arrays, manifest: Manifest, *others: Any, **settings: Any) -> Any:
        key = manifest.model_digest
        if key not in prepared:
            prepared[key] = prepare(arrays, manifest, *others, **settings)
        return prepared[key]

    monkeypatch.setattr(home_changes, "_prepare", prepare_first)
    # Searching all objects would be slow.
    monkeypatch.setattr(measurement, "count_alive", lambda *sizes: Alive([], {}, {}))
    monkeypatch.setattr(home_changes, "open_bundle", functools.cache(open_bundle))


def init(root: Path) -> object:
    return init_home(WITHOUT_LEVELS, root)


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


def explore_init(root: Path, rounds: int | None) -> tuple[Change, Exploration]:
    """Interrupts `init`; its recovery is `init` again or, if there is a home already, `take_lock`."""
    change = make(root, init)
    assert change.old == ()

    def init_again(root: Path) -> None:
        if files_of(root, change.store):
            take_lock(root)
        else:
            init(root)

    exploration = explore(change, init_again, rounds)
    assert all(len(tree) == 9 for tree in change.recovered)  # the lock, and the parts of a home
    return change, exploration


def explore_add_classes(root: Path, photos: Path, rounds: int | None) -> tuple[Change, Exploration]:
    """Interrupts the staging and the commit of `add-classes`."""
    change = make(root, lambda root: add_classes(root, photos, QUICK, isolate=False))
    return change, explore(change, take_lock, rounds)


def explore_stop_and_resume(root: Path, photos: Path, rounds: int | None) -> tuple[Change, Exploration]:
    """Interrupts an increment that is stopped after a step, and resumed."""

    def stop_and_resume(root: Path) -> None:
        asked = iter([True])
        with Home(root).lock(), pytest.raises(StoppedError):
            learn_classes(Home(root), photos, QUICK, ignore_progress, lambda: next(asked))
        add_classes(root, photos, QUICK, isolate=False)

    change = make(root, stop_and_resume)
    assert any("training.safetensors" in part for operation in change.operations for part in operation)
    return change, explore(change, take_lock, rounds)

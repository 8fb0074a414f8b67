"""Explores kills and power cuts at every operation on disk.

`record` notes every operation by which an action changes or syncs the disk. An `Exploration` replays the
operations on the model of a disk (`disk_model`), stops before and after each, and within each write, and
checks every state in which the disk may then be.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lwm_edge import _disk, durability, inspection, locks, storage
from tests.support.disk_model import Disk, Operation
from tests.support.file_store import Store


class Recorder:
    """Replaces `_disk`: notes every change and sync, and performs all operations except syncs and locks.

    Attributes:
        root: Folder that is changed.
        store: Store of the contents that are written.
        operations: Changes and syncs noted so far.
        fail_at: Position of the operation that fails; a write fails halfway.
        error: Error with which the operation fails; with None, no operation fails.
        all_later: Whether all later operations fail too.
        moves: Whether files may be moved to other folders, as in an inbox.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        fail_at: int = 0,
        error: BaseException | None = None,
        all_later: bool = False,
        moves: bool = False,
    ) -> None:
        self.root, self.store, self.moves = root, store, moves
        self.fail_at, self.error, self.all_later = fail_at, error, all_later
        self.operations: list[Operation] = []

    def create_file(self, path: Path, mode: int) -> BinaryIO:
        self._note("create_file", path)
        return _disk.create_file(path, mode)

    def write(self, file: BinaryIO, content: bytes) -> None:
        if self._fails():
            _disk.write(file, content[: len(content) // 2])
        self._note("write", Path(file.name), self.store.add(content))
        _disk.write(file, content)

    def sync_file(self, file: BinaryIO) -> None:
        self._note("sync_file", Path(file.name))

    def sync_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotADirectoryError(folder)
        self._note("sync_folder", folder)

    def rename(self, source: Path, target: Path) -> None:
        assert self.moves or source.parent == target.parent, "a home is changed by renames within a folder"
        self._note("rename", source, self._name(target))
        _disk.rename(source, target)

    def symlink(self, link: Path, target: str) -> None:
        self._note("symlink", link, target)
        _disk.symlink(link, target)

    def unlink(self, path: Path) -> None:
        if os.path.lexists(path):
            self._note("unlink", path)
            _disk.unlink(path)

    def make_folder(self, path: Path) -> None:
        if not path.is_dir():
            self._note("make_folder", path)
            _disk.make_folder(path)

    def remove_folder(self, path: Path) -> None:
        self._note("remove_folder", path)
        _disk.remove_folder(path)

    def open_lock(self, path: Path) -> int:
        if not path.exists():
            self._note("create_file", path)
        return _disk.open_lock(path)

    def open_file(self, path: Path) -> BinaryIO:
        return _disk.open_file(path)

    def give_to_owner_of(self, folder: Path, descriptor: int) -> None:
        _disk.give_to_owner_of(folder, descriptor)

    def try_lock(self, file: BinaryIO) -> bool:
        return True

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root.parent))

    def _note(self, kind: str, path: Path, *more: str) -> None:
        fails = self._fails()
        self.operations.append((kind, self._name(path) if path != self.root.parent else ".", *more))
        if fails and self.error:
            raise self.error

    def _fails(self) -> bool:
        past = len(self.operations) - self.fail_at
        return self.error is not None and (past >= 0 if self.all_later else past == 0)


@contextmanager
def disk_recorded_by(recorder: Any) -> Iterator[None]:
    """Replaces `_disk` with a recorder in every module that uses it, until the block ends."""
    _use(recorder)
    try:
        yield
    finally:
        _use(_disk)


def _use(disk: Any) -> None:
    for module in (inspection, durability, storage, locks):
        vars(module)["_disk"] = disk


def record(
    store: Store, root: Path, action: Callable[[], object], recorder: Recorder | None = None
) -> list[Operation]:
    """Records every change and sync that an action makes to a folder or in it."""
    before = Disk.holding(store, store.scan(root))
    recorder = recorder or Recorder(root, store)
    with disk_recorded_by(recorder):
        action()
    seen = before.after(*recorder.operations).visible()
    assert seen == store.scan(root), "something bypassed _disk"
    return recorder.operations


def interruptions(disk: Disk, operations: Iterable[Operation]) -> Iterator[Disk]:
    """Yields the disk before and after each operation, and within each write."""
    yield disk
    for operation in operations:
        if operation[0] == "write":
            yield from disk.torn(operation)
        disk = disk.after(operation)
        yield disk


@dataclass
class Exploration:
    """Interrupts a change at every operation, then each recovery at every operation, and so on.

    Attributes:
        store: Store of the files' contents.
        root: Folder that is changed.
        check: Function that reads the folder after an interruption, as a reader would, and fails if anything
            is wrong.
        recover: Function that recovers, as the next start would.
        check_recovered: Function that checks the folder after a recovery.
        rounds: Number of interruptions in a row; None goes on until no new disk is found.
        forget: Function that says which operations to leave out, to show that the checks would notice if the
            product forgot them.
        make_recorder: Function that makes the recorder of a recovery.
        counts: Numbers of kills and power cuts, in the change and in recoveries.
    """

    store: Store
    root: Path
    check: Callable[[], None]
    recover: Callable[[], object]
    check_recovered: Callable[[], None]
    rounds: int | None
    forget: Callable[[Operation], bool] = lambda operation: False
    make_recorder: Callable[[Path, Store], Recorder] = Recorder
    counts: Counter[str] = field(default_factory=Counter)
    _seen: set[object] = field(default_factory=set)
    _cuts: dict[object, int] = field(default_factory=dict)

    def run(self, disk: Disk, operations: Iterable[Operation]) -> None:
        """Visits every disk that interruptions of a change may leave."""
        waiting, round_ = list(self._left_by(disk, operations, "the change")), 1
        while waiting:
            found: list[Disk] = []
            for left in waiting:
                self.store.materialise(left.visible(), self.root)
                self.check()
                recorder = self.make_recorder(self.root, self.store)
                recovery = record(self.store, self.root, self.recover, recorder)
                if round_ != self.rounds:
                    found += self._left_by(left, recovery, "a recovery")
                self.check_recovered()
            waiting, round_ = found, round_ + 1

    @property
    def different(self) -> int:
        """Counts the different disks that interruptions left."""
        return len(self._seen)

    def _left_by(self, disk: Disk, operations: Iterable[Operation], what: str) -> Iterator[Disk]:
        """Yields the disk after each kill and each power cut, unless it was seen before."""
        kept = [operation for operation in operations if not self.forget(operation)]
        for killed in interruptions(disk, kept):
            key = killed.key()
            if key not in self._cuts:
                trees = list(killed.power_cuts())
                self._cuts[key] = len(trees)
                yield from self._new([killed, *(Disk.holding(self.store, tree) for tree in set(trees))])
            self.counts[f"kills in {what}"] += 1
            self.counts[f"power cuts in {what}"] += self._cuts[key]

    def _new(self, disks: Iterable[Disk]) -> Iterator[Disk]:
        for disk in disks:
            if disk.key() not in self._seen:
                self._seen.add(disk.key())
                yield disk

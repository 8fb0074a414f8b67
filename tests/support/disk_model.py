"""Models a disk in use, and the data that it can lose when the power fails.

`Disk.after` performs operations, as `fault_layer` records them, and `Disk.power_cuts` says what may be on the
disk when the machine starts again:

- A file's content that was not synced can be missing, cut short, replaced by zeros entirely or in part, or
  complete.
- Any subset of the changes to folder entries (made, renamed, removed) that were not synced can be there, even
  later ones without earlier ones. All 2^n subsets are tried. One rename is one change, as on
  journalling file systems, and a symbolic link is never there without its target.

A kill alone loses nothing. But data that were not synced before the kill can still be lost if the power fails
while the next process clears up. So a `Disk` holds both the durable state and the changes that are not yet
durable.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.file_store import FOLDER, Content, Store, Tree

MAX_PENDING = 12

Operation = tuple[str, ...]
"""Recorded operation: the name of a function of `_disk`, the relative path, and any other arguments."""


@dataclass(frozen=True)
class File:
    """Holds a file's content and whether it was synced; folder entries hold its name."""

    content: Content
    synced: bool


Node = tuple[str, str] | int
"""Node that a folder entry names: (FOLDER, ""), ("link", target), or a file's number."""

Change = tuple[tuple[str, Node | None], ...]
"""Folder entries that change together: path and new node; None removes the entry."""


@dataclass(frozen=True)
class Disk:
    """Describes the state of a disk in use.

    Attributes:
        store: Store of the files' contents.
        entries: Durable folder entries, by path.
        pending: Changes to entries that are not yet durable, in order.
        files: Files by number.
    """

    store: Store
    entries: Mapping[str, Node]
    pending: tuple[Change, ...] = ()
    files: Mapping[int, File] = field(default_factory=dict)

    @classmethod
    def holding(cls, store: Store, tree: Tree) -> Disk:
        """Makes a disk on which everything is durable."""
        entries: dict[str, Node] = {}
        files: dict[int, File] = {}
        for name, kind, what in sorted(tree):
            entries[name] = len(files) if kind == "file" else (kind, what)
            if kind == "file":
                files[len(files)] = File(what, synced=True)
        return cls(store, entries, (), files)

    def visible(self) -> Tree:
        """Returns the tree that a process sees."""
        return _tree(_changed(self.entries, self.pending), self.files)

    def key(self) -> object:
        """Returns a key; disks with the same key have the same possible outcomes."""

        def known(node: Node | None) -> object:
            return self.files[node] if isinstance(node, int) else node

        entries = frozenset((path, known(node)) for path, node in self.entries.items())
        return entries, tuple(tuple((path, known(node)) for path, node in change) for change in self.pending)

    def power_cuts(self) -> Iterator[Tree]:
        """Yields every tree that, in this model, may be on the disk after a power cut at this point."""
        assert len(self.pending) <= MAX_PENDING, f"too many unsynced changes to try them all: {self.pending}"
        for kept in itertools.product((True, False), repeat=len(self.pending)):
            entries = _changed(self.entries, itertools.compress(self.pending, kept))
            numbers = {node for node in entries.values() if isinstance(node, int)}
            unsynced = sorted(number for number in numbers if not self.files[number].synced)
            losses = [self.store.unsynced(self.files[number].content) for number in unsynced]
            for contents in itertools.product(*losses):
                lost = {n: File(c, synced=True) for n, c in zip(unsynced, contents, strict=True)}
                yield _tree(entries, {**self.files, **lost})

    def after(self, *operations: Operation) -> Disk:
        """Returns the disk after some operations."""
        return functools.reduce(Disk._after, operations, self)

    def _after(self, operation: Operation) -> Disk:
        kind, path, *more = operation
        match kind:
            case "create_file":
                number = len(self.files)
                files = {**self.files, number: File(self.store.add(b""), synced=False)}
                return replace(self._changing((path, number)), files=files)
            case "write":
                content = self.store.joined(self.files[self._file(path)].content, more[0])
                return self._with_file(path, File(content, synced=False))
            case "sync_file":
                return self._with_file(path, replace(self.files[self._file(path)], synced=True))
            case "sync_folder":
                return self._syncing(path)
            case "rename":
                node = _changed(self.entries, self.pending)[path]
                return self._changing((path, None), (more[0], node))
            case "symlink":
                return self._changing((path, ("link", more[0])))
            case "make_folder":
                return self._changing((path, (FOLDER, "")))
            case "unlink" | "remove_folder":
                return self._changing((path, None))
        raise AssertionError(f"the model of a disk does not know {operation}")

    def torn(self, operation: Operation) -> Iterator[Disk]:
        """Yields the disk after each part of a write that a kill can leave."""
        for part in sorted(self.store.torn(operation[2])):
            yield self.after((*operation[:2], part))

    def _file(self, path: str) -> int:
        node = _changed(self.entries, self.pending)[path]
        assert isinstance(node, int)
        return node

    def _with_file(self, path: str, file: File) -> Disk:
        return replace(self, files={**self.files, self._file(path): file})

    def _changing(self, *change: tuple[str, Node | None]) -> Disk:
        return replace(self, pending=(*self.pending, change))

    def _syncing(self, folder: str) -> Disk:
        here = [change for change in self.pending if _parent(change[0][0]) == folder]
        entries = _changed(self.entries, here)
        left = [change for change in self.pending if change not in here]
        alive = set(entries) | {path for change in left for path, node in change if node is not None} | {"."}
        left = [change for change in left if _parent(change[0][0]) in alive]
        return replace(self, entries=entries, pending=tuple(left))


def _parent(path: str) -> str:
    return str(Path(path).parent)


def _changed(entries: Mapping[str, Node], changes: Iterable[Change]) -> dict[str, Node]:
    changed = dict(entries)
    for change in changes:
        for path, node in change:
            if node is not None:
                changed[path] = node
            else:
                for gone in [p for p in changed if p == path or p.startswith(f"{path}/")]:
                    del changed[gone]
    return changed


def _tree(entries: Mapping[str, Node], files: Mapping[int, File]) -> Tree:
    """Returns the entries that can be reached, because their folder exists."""
    found: set[tuple[str, str, str]] = set()
    reached = {"."}
    for path, node in sorted(entries.items()):
        if _parent(path) in reached:
            found.add((path, "file", files[node].content) if isinstance(node, int) else (path, *node))
            if node == (FOLDER, ""):
                reached.add(path)
    return frozenset(found)

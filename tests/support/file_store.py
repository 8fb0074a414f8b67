"""Keeps file contents by digest, and describes folders in a form that can be compared and made again."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

FOLDER = "folder"
_NOTHING = hashlib.sha256().hexdigest()

Content = str
"""Digest of a file's content; `Store` has the bytes."""

Tree = frozenset[tuple[str, str, str]]
"""A folder and everything below it: (path, "folder", ""), (path, "link", target), (path, "file", content)."""


class Store:
    """Keeps each content in a file named after its digest; the files of a tree are hard links to these.

    Empty files of a tree are not linked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._read: dict[tuple[int, int, int], Content] = {}  # so that no file is read twice
        self._torn: dict[Content, set[Content]] = {}
        self._unsynced: dict[Content, set[Content]] = {}

    def add(self, content: bytes) -> Content:
        digest = hashlib.sha256(content).hexdigest()
        if not (self.folder / digest).exists():
            (self.folder / digest).write_bytes(content)
        return digest

    def get(self, content: Content) -> bytes:
        return (self.folder / content).read_bytes()

    def joined(self, first: Content, second: Content) -> Content:
        """Joins two contents."""
        return self.add(self.get(first) + self.get(second)) if self.get(first) else second

    def is_intact(self) -> bool:
        return all(hashlib.sha256(p.read_bytes()).hexdigest() == p.name for p in self.folder.iterdir())

    def read(self, path: Path) -> Content:
        """Adds a file's content to the store."""
        status = path.stat()
        key = status.st_ino, status.st_mtime_ns, status.st_size
        if key not in self._read:
            self._read[key] = self.add(path.read_bytes())
        return self._read[key]

    def scan(self, root: Path) -> Tree:
        """Reads a folder and everything below it."""
        found = set()
        for path in root.rglob("*") if root.is_dir() else ():
            name = str(path.relative_to(root.parent))
            if path.is_symlink():
                found.add((name, "link", str(path.readlink())))
            elif path.is_dir():
                found.add((name, FOLDER, ""))
            else:
                found.add((name, "file", self.read(path)))
        return frozenset(found | {(root.name, FOLDER, "")} if root.is_dir() else found)

    def materialise(self, tree: Tree, root: Path) -> None:
        """Replaces a folder with exactly the given tree."""
        shutil.rmtree(root, ignore_errors=True)
        for name, kind, what in sorted(tree):
            path = root.parent / name
            if kind == FOLDER:
                path.mkdir()
            elif kind == "link":
                path.symlink_to(what)
            elif what == _NOTHING:  # a lock, which must be a separate file
                path.touch()
            else:
                os.link(self.folder / what, path)

    def torn(self, content: Content) -> set[Content]:
        """Returns some of the parts of a write that a kill can leave."""
        if content not in self._torn:
            whole = self.get(content)
            lengths = {0, 1, len(whole) // 2, len(whole) - 1} & set(range(len(whole)))
            self._torn[content] = {self.add(whole[:length]) for length in lengths}
        return self._torn[content]

    def unsynced(self, content: Content) -> set[Content]:
        """Returns some of the contents that a power cut can leave of a file that was not synced."""
        if content not in self._unsynced:
            whole = self.get(content)
            half = len(whole) // 2
            zeros = {self.add(bytes(len(whole))), self.add(bytes(half) + whole[half:])}
            self._unsynced[content] = {content, *self.torn(content), *zeros}
        return self._unsynced[content]

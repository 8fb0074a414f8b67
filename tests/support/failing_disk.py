"""Makes one of a process's operations on files fail, whichever Python code performs it.

Python's audit events announce files that are about to be opened, made, renamed, listed or removed. Some
functions of `os` without such an event are replaced.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import inspection

_EVENTS = {
    "open", "os.listdir", "os.scandir", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink",
    "os.link", "fcntl.flock",
}  # fmt: skip
_WITHOUT_EVENTS = ("fsync", "stat", "lstat", "readlink", "fstat", "read", "statvfs")


class _Disk:
    """Counts operations on paths below a folder and on open files, and makes number `fails_at` end in EIO."""

    root: str | None = None
    count = 0
    fails_at: int | None = None

    def count_operation(self, where: Any) -> None:
        if self.root is None or not self._is_open_or_below_root(where):
            return
        self.count += 1
        if self.count == self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(where))

    def _is_open_or_below_root(self, where: Any) -> bool:
        return not isinstance(where, str | os.PathLike) or str(where).startswith(str(self.root))


_disk = _Disk()


def refuse(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every attempt to open files of this name for reading end in an error of the system."""

    def opened(path: Path) -> BufferedReader:
        if path.name == name:
            raise OSError(number, os.strerror(number), str(path))
        return open_regular(path)

    open_regular = inspection.open_regular
    monkeypatch.setattr(inspection, "open_regular", opened)


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _disk.root is not None and event in _EVENTS:
        is_open_by_number = event == "open" and isinstance(arguments[0], int)
        if not is_open_by_number:
            _disk.count_operation(arguments[0])


_LISTENING: list[bool] = []  # not empty once the hook is added; it cannot be removed


@contextmanager
def failing_disk(root: Path, fails_at: int | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Disk]:
    """Makes operation number `fails_at` within the block fail; if that is None, only counts operations."""
    if not _LISTENING:
        sys.addaudithook(_listen)
        _LISTENING.append(True)
    with monkeypatch.context() as replaced:
        for name in _WITHOUT_EVENTS:
            replaced.setattr(os, name, _counted(getattr(os, name)))
        _disk.root, _disk.count, _disk.fails_at = str(root), 0, fails_at
        try:
            yield _disk
        finally:
            _disk.root = None


def _counted(function: Any) -> Any:
    def counted(*arguments: Any, **named: Any) -> Any:
        if arguments:
            _disk.count_operation(arguments[0])
        return function(*arguments, **named)

    return counted

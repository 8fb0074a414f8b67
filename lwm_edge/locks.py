"""Takes file locks; a lock ends, at the latest, when no process has the lock file open any more."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import _disk
from ._disk import lock, open_folder, unlock
from .durability import changing, sync_folder
from .errors import BusyError, HomeError
from .inspection import explained, kind_at

_SECONDS_BETWEEN_TRIES = 0.25


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock on a folder, and holds it until the block ends.

    No lock file is needed, so this suits folders that are not this program's own. If the file system cannot
    lock folders (NFS cannot), nothing is locked.

    Raises:
        HomeError: The folder cannot be opened.
    """
    with explained("lock", path):
        descriptor = open_folder(path)
    try:
        with suppress(OSError):
            lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(
    path: Path, *, on_wait: Callable[[], None] | None = None, busy: str | None = None
) -> Iterator[int]:
    """Holds a file lock until the block ends; yields its descriptor, so that child processes can hold it too.

    Args:
        path: Path of the lock file.
        on_wait: Function that is called several times a second until the lock's holder releases it, however
            long that takes; any exception that it raises ends the call. None means not to wait.
        busy: Message of the BusyError; by default, it names the lock's folder and advises waiting.

    Raises:
        BusyError: The lock is held already, and `on_wait` is None.
        HomeError: The path leads to something other than a file, or the operating system refused.
    """
    with changing("lock", path):
        is_new = not os.path.lexists(path)
        descriptor = _disk.open_lock(path)
    try:
        if is_new:  # it must be durable first: other files count as ours only if it is next to them
            sync_folder(path.parent)
        with explained("lock", path):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise HomeError(f"cannot lock {path}: it is {kind_at(path)}, not a file; move it elsewhere")
        while not _is_locked_now(descriptor, path):
            if on_wait is None:
                raise BusyError(
                    busy
                    or f"{path.parent} is being changed already; try again when that is done, or pass --wait"
                )
            on_wait()
            time.sleep(_SECONDS_BETWEEN_TRIES)
        holder = os.getpid()
        try:
            yield descriptor
        finally:  # a process forked in the block has the lock file open too, and may get here as well
            if os.getpid() == holder:
                with suppress(OSError):  # closing the file unlocks it in any case
                    unlock(descriptor)
    finally:
        os.close(descriptor)


def _is_locked_now(descriptor: int, path: Path) -> bool:
    """Tries to take a lock; returns False if somebody else holds it."""
    with explained("lock", path):
        try:
            lock(descriptor, wait=False)
        except BlockingIOError:
            return False
    return True

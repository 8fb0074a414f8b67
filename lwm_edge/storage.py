"""All writing to disk: staged beside the target, synced, renamed, and the folder synced.

A reader, a kill or a power cut at any instant meets the old content or the new, never a mixture. Nothing
else in the package opens a file for writing; what it asks of the operating system is in `_disk`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import _disk
from .errors import BusyError, HomeError, LwmEdgeError, ResourceError


@contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into errors that say what to do."""
    try:
        yield
    except OSError as error:
        raise _explanation(action, path, error) from error


def _explanation(action: str, path: Path, error: OSError) -> LwmEdgeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"cannot {action} {path}: the disk is full; free some space and try again")
    return HomeError(f"cannot {action} {path}: {error.strerror}; check the path and its permissions")


def _confirm(path: Path) -> None:
    """Makes a rename durable.

    Raises:
        HomeError: The rename is done, but the disk did not confirm it.
    """
    try:
        _disk.sync_folder(path.parent)
    except OSError as error:
        raise HomeError(
            f"{path} is written, but the disk did not confirm it ({error.strerror}), so a power cut may "
            "still undo it; check the disk"
        ) from error


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable."""
    with _explained("sync", folder):
        _disk.sync_folder(folder)


def write_file(path: Path, content: bytes, *, mode: int = 0o666, replace: bool = True) -> None:
    """Writes or replaces a file atomically and durably.

    Args:
        path: Of the file.
        content: All of it.
        mode: Permissions, less the umask; never wider, at no instant.
        replace: Whether an existing file may be replaced; otherwise it makes a HomeError.

    Raises:
        ResourceError: The disk is full; the old file, if any, is untouched.
        HomeError: The operating system refused otherwise, or the disk did not confirm the new file.
    """
    if path.is_dir():
        raise HomeError(f"cannot write {path}: it is a folder; give the name of a file")
    staged = path.with_name(f".{path.name}.staged")
    with _explained("write", path):
        try:
            _disk.unlink(staged)  # a kill's leftover, or somebody's link to another file
            with _disk.create_file(staged, mode) as file:
                _disk.write(file, content)
                _disk.sync_file(file)
            if replace:
                _disk.rename(staged, path)
            else:
                _disk.link(staged, path)
                _disk.unlink(staged)
        except BaseException:
            _disk.unlink(staged)
            raise
    _confirm(path)


def make_folder(path: Path) -> None:
    """Creates a folder (parents too) durably; an existing one is fine."""
    with _explained("create", path):
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in (*reversed(missing), path):
            _disk.make_folder(folder)
        for folder in (path, path.parent, *(made.parent for made in missing)):
            sync_folder(folder)


def swap_link(link: Path, target: str) -> None:
    """Points the symbolic link at `target` (relative to the link's folder) by one rename."""
    staged = link.with_name(f".{link.name}.staged")
    with _explained("switch", link):
        _disk.unlink(staged)
        _disk.symlink(staged, target)
        _disk.rename(staged, link)
    _confirm(link)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder if there is one; readers that have a file open keep it."""
    if not os.path.lexists(path):
        return
    with _explained("remove", path):
        _remove(path)
        sync_folder(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            _remove(entry)
        _disk.remove_folder(path)
    else:
        _disk.unlink(path)


@contextmanager
def exclusive_lock(path: Path, *, wait: bool = False) -> Iterator[int]:
    """Holds a file lock that dies with its process; yields its descriptor.

    Args:
        path: Of the lock file.
        wait: Until another process lets go of it, however long that takes.

    Raises:
        BusyError: Another process holds it, and `wait` is not set.
    """
    with _explained("lock", path):
        descriptor = _disk.open_lock(path)
    try:
        with _explained("lock", path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"{path.parent} is being changed by another process; try again when it is done, "
                    "or say --wait"
                ) from None
        yield descriptor
    finally:
        os.close(descriptor)

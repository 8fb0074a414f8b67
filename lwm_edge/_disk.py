"""Performs the operations on files and folders that `storage`, `durability`, `inspection` and `locks` use.

No other module creates, writes, renames or removes files or folders, except for temporary ones.

Tests replace this module with one that records every change and sync, and then replay these with power cuts.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FEATURES = {
    "file locks": fcntl is not None,
    "symbolic links": hasattr(os, "symlink"),
    "folder syncing": hasattr(os, "O_DIRECTORY"),
    "file ownership": hasattr(os, "fchown"),
}


def missing_features() -> list[str]:
    """Lists the features that safe changes need and this system lacks; Windows lacks most of them."""
    return [feature for feature, is_offered in _FEATURES.items() if not is_offered]


def create_file(path: Path, mode: int) -> BinaryIO:
    """Creates a new, empty file whose permissions are `mode` less the umask."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def open_file(path: Path) -> BufferedReader:
    """Opens a file for reading; if it is a pipe, does not wait for anyone to write to it."""
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    return open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags))


def write(file: BinaryIO, content: bytes) -> None:
    """Hands content over to the operating system."""
    file.write(content)
    file.flush()


def sync_file(file: BinaryIO) -> None:
    """Makes the file's content durable; `sync_folder` does the same for its name."""
    _sync(file.fileno())


def _sync(descriptor: int) -> None:
    """Syncs a file or folder; on macOS, fsync(2) would leave the content in the disk's own cache."""
    if (to_the_disk := getattr(fcntl, "F_FULLFSYNC", None)) is not None:
        with suppress(OSError):  # the file system does not offer it
            fcntl.fcntl(descriptor, to_the_disk)
            return
    os.fsync(descriptor)


def open_folder(folder: Path) -> int:
    """Opens a folder, to sync or lock it."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable."""
    descriptor = open_folder(folder)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Renames a file or link within its file system, replacing any file or link that has the new name."""
    source.replace(target)


def link(source: Path, target: Path) -> None:
    """Gives a file a second name; fails if that name is taken."""
    os.link(source, target)


def symlink(link: Path, target: str) -> None:
    """Creates a symbolic link; if the superuser does so, gives it to its folder's owner where possible."""
    link.symlink_to(target)
    if os.geteuid() == 0 and link.parent.stat().st_uid != 0:
        with suppress(OSError):  # the folder's owner can replace the link in any case
            _give_link_to_owner_of(link.parent, link)


def _give_link_to_owner_of(folder: Path, link: Path) -> None:
    """Gives a link, not its target, to the owner of the link's folder.

    It works on a descriptor; `give_to_owner_of` says why. fchown(2) refuses the descriptor
    of a link, but chown(2) accepts the descriptor's path in /proc, which stands for the link itself.
    """
    if not hasattr(os, "O_PATH"):
        return
    owner, descriptor = folder.stat(), os.open(link, os.O_PATH | os.O_NOFOLLOW)
    try:
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            os.chown(f"/proc/self/fd/{descriptor}", owner.st_uid, owner.st_gid)
    finally:
        os.close(descriptor)


def unlink(path: Path) -> None:
    """Removes a file or link, if there is one."""
    path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Creates a folder unless it exists; a new one is never writable by everybody, whatever the umask."""
    if path.is_dir():
        return
    path.mkdir(0o775, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        give_to_owner_of(path.parent, descriptor)
    finally:
        os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Removes an empty folder."""
    path.rmdir()


def open_lock(path: Path) -> int:
    """Opens a lock file, creating it if it is missing; a link is not followed.

    Whoever can open a file can lock it, so only users who may change the folder can open a new lock file.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    try:
        if path.parent.stat().st_mode & stat.S_IWGRP:
            os.fchmod(descriptor, 0o660)
        give_to_owner_of(path.parent, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Gives what the superuser creates in a folder to the folder's owner, who could not change it otherwise.

    It works on a descriptor, because whoever may change the folder could make a path lead somewhere else.
    """
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def lock(descriptor: int, *, wait: bool) -> None:
    """Locks a file until `unlock` is called, or until no process has the descriptor open any more.

    Raises:
        BlockingIOError: Another process has locked it, and `wait` is not set.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(descriptor: int) -> None:
    """Unlocks a file."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def try_lock(file: BinaryIO) -> bool:
    """Locks an open file for as long as it is open; returns False if another process has locked it."""
    try:
        lock(file.fileno(), wait=False)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True

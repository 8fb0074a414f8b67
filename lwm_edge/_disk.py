"""The few operations on files and folders that `storage` is made of; nothing else in the package writes.

They are a module of their own so that tests can put another in its place, which records every operation
and replays it with power cuts.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def create_file(path: Path, mode: int) -> BinaryIO:
    """Creates an empty file that was not there, with permissions `mode` less the umask."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def write(file: BinaryIO, content: bytes) -> None:
    """Hands content to the operating system."""
    file.write(content)
    file.flush()


def sync_file(file: BinaryIO) -> None:
    """Makes the file's content durable; its name is the folder's affair."""
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Gives a file or link another name in its folder; what had that name is gone."""
    source.replace(target)


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, unless something has that name."""
    os.link(source, target)


def symlink(link: Path, target: str) -> None:
    """Makes a symbolic link."""
    link.symlink_to(target)


def unlink(path: Path) -> None:
    """Removes a file or link; nothing there is fine."""
    path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder; an existing one is fine."""
    path.mkdir(exist_ok=True)


def remove_folder(path: Path) -> None:
    """Removes an empty folder."""
    path.rmdir()


def open_lock(path: Path) -> int:
    """Opens a lock file, and makes it where it is missing; a link is not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def try_lock(file: BinaryIO) -> bool:
    """Locks an open file for as long as it is open; False where another process has done so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True

"""Looks at what is on the disk, reads regular files, and explains refusals by the operating system.

Nothing here changes a file or a folder; that is what `storage` is for.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from . import _disk
from .errors import HomeError, os_failure

CURRENT, GENERATIONS = "current", "generations"
"""Names of a home's link to its current model, and of the folder that the link leads into."""
_CANNOT_BE_READ = (errno.EACCES, errno.EPERM, errno.EIO)  # the disk or the system refuses the file


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into errors that say what to do."""
    try:
        yield
    except OSError as error:
        raise os_failure(action, path, error) from error


def kind_at(path: Path, *, follow: bool = False) -> str:
    """Says in words what is at a path or, with `follow`, what a link at that path leads to."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a link",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFIFO: "a named pipe (FIFO)",
        stat.S_IFSOCK: "a socket",
    }
    try:
        return kinds.get(stat.S_IFMT(path.stat(follow_symlinks=follow).st_mode), "no file")
    except OSError as error:
        return f"something that cannot be examined ({error.strerror})"


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file for reading; refuses anything else, such as a pipe, which might never end.

    Raises:
        OSError: There is no file, it may not be read, or it is not a regular one.
    """
    file = _disk.open_file(path)
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, f"it is {kind_at(path, follow=True)}, not a file", str(path))
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, most: int = -1) -> bytes:
    """Reads a regular file, or its first bytes.

    Args:
        path: Path of the file.
        most: Largest number of bytes to read; by default, the whole file is read.

    Raises:
        OSError: There is no file, it may not be read, or it is not a regular one.
    """
    with open_regular(path) as file:
        return file.read(most)


def read_or_why_not(path: Path) -> bytes | str:
    """Reads a regular file; returns why not if the disk or the system refuses."""
    try:
        return read_regular(path)
    except OSError as error:
        if refused := refusal(error):
            return str(refused.strerror)
        raise


def refusal(error: OSError | HomeError) -> OSError | None:
    """Returns the disk's or the system's refusal to give out a file; None if an error has another cause."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return cause if isinstance(cause, OSError) and cause.errno in _CANNOT_BE_READ else None


def is_regular_file(path: Path) -> bool:
    """Returns whether a regular file is at a path; a link to one does not count."""
    try:
        return path.is_file() and not path.is_symlink()
    except OSError:  # it cannot be examined
        return False


def is_real_folder(path: Path) -> bool:
    """Returns whether a folder is at a path; a link to one does not count."""
    try:
        return path.is_dir() and not path.is_symlink()
    except OSError:  # it cannot be examined
        return False


def holds_only(folder: Path, files: Collection[str]) -> bool:
    """Returns whether a folder contains nothing but regular files with these names."""
    try:
        return all(entry.name in files and is_regular_file(entry) for entry in entries(folder))
    except HomeError:  # it cannot be read
        return False


def entries(folder: Path) -> list[Path]:
    """Lists everything in a folder, sorted by name.

    Raises:
        HomeError: The folder cannot be read.
    """
    with explained("read", folder):
        return sorted(folder.iterdir())


def generation_named_by(link: Path) -> str | None:
    """Returns the name of the generation that a link points at; None if it is not a home's link `current`."""
    target = link.readlink().as_posix() if link.is_symlink() else ""  # Windows writes it with backslashes
    return target.partition("/")[2] if re.fullmatch(rf"{GENERATIONS}/[0-9]{{8}}", target) else None


def home_around(path: Path) -> Path | None:
    """Returns the model home that a path is in; None if it is in none."""
    folders = Path(os.path.realpath(path)).parents
    return next((folder for folder in folders if generation_named_by(folder / CURRENT)), None)

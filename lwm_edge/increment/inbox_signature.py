"""Describes a class folder of an inbox, so that any change to its files is noticed."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from .. import inspection
from ..errors import HomeError

Signature = tuple[tuple[str, int, str, int, int], ...]
"""Names, lengths, permissions and times of a folder's files; the signature changes whenever a file does."""


def signature(folder: Path) -> Signature:
    """Describes the files in a folder, including hidden ones, because some tools first copy to a hidden file.

    The folder's own permissions count too. When an owner allows photos to be moved out of the folder, or the
    folder to be read, only these permissions change. Of a folder that cannot be read, nothing else is known.

    Raises:
        HomeError: The folder is gone.
    """
    with inspection.explained("read", folder):
        found = [(".", 0, _permissions(folder.lstat()), 0, 0)]
    paths = list[Path]()
    with suppress(HomeError):
        paths = inspection.entries(folder)
    for path in paths:
        with suppress(OSError):  # the file has just been moved away, which changes the next signature
            status = path.lstat()
            times = status.st_mtime_ns, status.st_ctime_ns
            found.append((path.name, status.st_size, _permissions(status), *times))
    return tuple(found)


def _permissions(status: os.stat_result) -> str:
    return f"{status.st_mode:o} {status.st_uid} {status.st_gid}"


def fingerprint(folder: Path) -> str:
    """Returns a digest of a folder's signature, without the ctimes, which change when files are moved."""
    with suppress(HomeError):
        seen = signature(folder)
        lines = [f"{name!a} {size} {allowed} {changed}" for name, size, allowed, changed, _ in seen]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return hashlib.sha256().hexdigest()

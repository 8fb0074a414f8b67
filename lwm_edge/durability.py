"""Makes changes outlast a power cut, and refuses them on a system where no change would be safe."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import _disk
from ._disk import missing_features
from .errors import HomeError
from .inspection import explained

_without_folder_sync: set[int] = set()  # device numbers of file systems that cannot sync a folder


@contextmanager
def changing(action: str, path: Path) -> Iterator[None]:
    """Turns the system's refusals into errors that say what to do; refuses at once if no change is safe."""
    require_safe_changes(action, path)
    with explained(action, path):
        yield


def require_safe_changes(action: str, path: Path) -> None:
    """Refuses to change files on a system that cannot do so safely.

    Raises:
        HomeError: The system lacks a feature; the message names it, and some commands that still work.
    """
    if missing := missing_features():
        raise HomeError(
            f"cannot {action} {path}: this system has no {', no '.join(missing)}, without which a model "
            "could be damaged; make and change models on Linux or macOS; here, you can only read them "
            "(predict, evaluate, check, info, verify, audit, and Classifier in Python)"
        )


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable."""
    with changing("sync", folder):
        _sync_if_possible(folder)


def confirm(path: Path) -> None:
    """Makes a rename durable.

    Raises:
        HomeError: The rename is done, but the disk did not confirm it.
    """
    try:
        _sync_if_possible(path.parent)
    except OSError as error:
        raise HomeError(
            f"{path} is written, but the disk did not confirm it ({error.strerror}), so a power cut may "
            "still undo it; check the disk"
        ) from error


def _sync_if_possible(folder: Path) -> None:
    """Syncs a folder; if its file system cannot do so, notes that for `durability_warnings`."""
    try:
        _disk.sync_folder(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        _without_folder_sync.add(folder.stat().st_dev)


def durability_warnings(folder: Path) -> tuple[str, ...]:
    """Returns a warning if the file system of a folder has proved unable to confirm changes."""
    if folder.stat().st_dev not in _without_folder_sync:
        return ()
    return (
        f"the file system of {folder} cannot confirm that a change will outlast a power cut; each "
        "change is still made in one step, but the latest one may be undone",
    )

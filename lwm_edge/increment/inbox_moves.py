"""Moves photos to folders that may have files of the same names, or whose file systems refuse some names."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .. import inspection, storage
from ..errors import HomeError, PhotosError
from ..photos.checking import file_digest

_NAME_IS_REFUSED = (errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ)
_LONGEST_STEM, _LONGEST_SUFFIX = 100, 20  # characters of a safe name


def safe_name(name: str, digest: str) -> str:
    """Returns a short ASCII name that every file system takes, made of a name and a digest."""
    safe = Path(re.sub(r"[^\w.-]", "_", name, flags=re.ASCII))
    return f"{safe.stem[:_LONGEST_STEM]}-{digest[:12]}{safe.suffix[:_LONGEST_SUFFIX]}"


def names_for(photo: Path, digest: str | None = None) -> Iterator[str]:
    """Yields the names that a photo may get in another folder, the best first.

    Args:
        photo: Path of the photo.
        digest: Digest of the photo; None to read the photo once the digest is needed.
    """
    yield photo.name
    digest = digest or file_digest(photo)
    yield f"{photo.stem}-{digest[:12]}{photo.suffix}"  # if its own name is taken
    yield safe_name(photo.name, digest)  # if the file system refuses its own name


def folders_for(parent: Path, name: str) -> tuple[Path, Path]:
    """Returns the paths that a folder for photos may get in another folder, the best first."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return parent / name, parent / safe_name(name, digest)


def is_copy(path: Path, digest: str) -> bool:
    """Returns whether a regular file with this digest is at a path."""
    with suppress(PhotosError):
        return inspection.is_regular_file(path) and file_digest(path) == digest
    return False


def make_folder_for_photos(parent: Path, name: str) -> Path:
    """Creates a folder for photos, under another name if the file system refuses the given one."""
    best, safe = folders_for(parent, name)
    try:
        storage.make_folder(best)
    except HomeError as error:
        if not _is_name_refused(error):
            raise
        storage.make_folder(safe)
        return safe
    return best


def move_beside_others(path: Path, folder: Path) -> None:
    """Moves a photo to a folder; deletes it if a copy of it is there already.

    The photo gets another name if its own is taken, or if the folder's file system refuses it.

    Raises:
        HomeError: The operating system refused for another reason, or every name for the photo is taken or
            refused there.
        ResourceError: The other disk is full; the photo is where it was.
    """
    for name in names_for(path):
        target = folder / name
        if os.path.lexists(target):
            if is_copy(target, file_digest(path)):  # it was copied before an interruption, or given twice
                storage.remove_file(path)
                return
            continue
        try:
            storage.move_file(path, target)
        except HomeError as error:
            if not _is_name_refused(error):
                raise
        else:
            return
    raise HomeError(
        f"cannot move {path} to {folder}: every name for it is taken or refused there; move it yourself"
    )


def _is_name_refused(error: HomeError) -> bool:
    """Returns whether the operating system refused a name, and not the whole operation."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _NAME_IS_REFUSED

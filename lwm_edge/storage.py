"""Writes to disk: stages content beside the target, syncs it, renames it, and syncs the folder.

At any instant, and after a kill or a power cut, a reader finds either the old content or the new, never a
mixture. Other modules change files and folders through this one; the operations themselves are in `_disk`.

`write_file` is for this program's own files, `move_file` for photos in an inbox; `outputs` writes files that
a user names. `ownership` decides whether something is this program's own and may be removed.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from . import _disk
from .durability import changing, confirm, sync_folder
from .errors import NOT_OFFERED, BusyError, ConfigError, HomeError, ResourceError, os_failure
from .inspection import entries, holds_only, is_real_folder, is_regular_file, kind_at, open_regular

_COPIED_AT_ONCE = 1 << 20  # bytes


def staged_path(path: Path) -> Path:
    """Returns where the next content of a file or link is staged; only this program uses such names."""
    return path.with_name(f".{path.name}.lwm-edge")


def write_file(
    path: Path, content: bytes, *, mode: int = 0o664, replace: bool = True, of_user: bool = False
) -> None:
    """Writes or replaces a file of this program's own, atomically and durably.

    Args:
        path: Path of the file. Only a regular file is replaced; links, devices and folders are refused.
        content: Content of the whole file.
        mode: Permissions, less the umask; they are never wider, not even for an instant.
        replace: Whether an existing file may be replaced; if not, an existing file causes a HomeError.
        of_user: Whether the file always belongs to the user who runs this. If not, a file that the superuser
            writes to another user's folder is given to that folder's owner.

    Raises:
        ResourceError: The disk is full; the old file, if any, is untouched.
        HomeError: Something other than a file is there, the operating system refused, or the disk did not
            confirm the new file.
        BusyError: Another process is writing the file at this moment.
    """
    with changing("write", path):
        if os.path.lexists(path) and not is_regular_file(path):
            raise HomeError(
                f"cannot write {path}: it is {kind_at(path)}, which is left alone; move it elsewhere"
            )
        replace_file(path, content, mode, None, replace, of_user=of_user)
    confirm(path)


def replace_file(
    path: Path,
    content: bytes,
    mode: int,
    keep: os.stat_result | None,
    replace: bool,
    *,
    of_user: bool = True,
) -> None:
    """Stages content beside `path`, syncs it, and renames it.

    If `keep` is given, the new file gets the owner and the mode that it states.
    """
    staged = staged_path(path)
    _require_no_other_writer(path, staged)
    remove_file(staged)  # a kill may have left one
    file = _disk.create_file(staged, mode)
    try:
        with file:
            _disk.try_lock(file)
            if keep:
                _keep_owner_and_mode(path, file, keep)
            elif not of_user:
                _disk.give_to_owner_of(path.parent, file.fileno())
            _disk.write(file, content)
            _disk.sync_file(file)
        if replace:
            _disk.rename(staged, path)
        else:
            _name_if_free(staged, path)
    except BaseException:
        _disk.unlink(staged)
        raise


def _name_if_free(staged: Path, path: Path) -> None:
    """Gives a staged file its final name, unless that is taken."""
    try:
        _disk.link(staged, path)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        _disk.create_file(path, 0o600).close()  # claims the name or fails; the rename replaces only this file
        _disk.rename(staged, path)
    else:
        _disk.unlink(staged)


def _require_no_other_writer(path: Path, staged: Path) -> None:
    """Refuses a file that another process is writing at this moment, but not one that a kill left behind."""
    if is_regular_file(staged):
        with open_regular(staged) as file:
            if not _disk.try_lock(file):
                raise BusyError(f"{path} is being written by another process; try again when it is done")


def _keep_owner_and_mode(path: Path, file: BinaryIO, old: os.stat_result) -> None:
    new = os.fstat(file.fileno())
    require_owner_can_be_kept(path, old)
    try:
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
        if new.st_mode != old.st_mode:
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
    except PermissionError:
        raise _other_owner(path, old) from None


def require_owner_can_be_kept(path: Path, old: os.stat_result) -> None:
    """Refuses a file if a new one in its place could not be given the same user and group."""
    groups = {os.getegid(), *os.getgroups()}
    if os.geteuid() != 0 and (old.st_uid != os.geteuid() or old.st_gid not in groups):
        raise _other_owner(path, old)


def _other_owner(path: Path, old: os.stat_result) -> ConfigError:
    return ConfigError(
        f"cannot write {path}: it belongs to user {old.st_uid} and group {old.st_gid}, and this user cannot "
        "give a new file to them; choose another name, or remove this file first"
    )


def make_folder(path: Path) -> None:
    """Creates a folder and its parents durably; those that exist are left as they are."""
    with changing("create", path):
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in (*reversed(missing), path):
            _disk.make_folder(folder)
        for folder in (path, path.parent, *(made.parent for made in missing)):
            sync_folder(folder)


def swap_link(link: Path, target: str) -> tuple[str, ...]:
    """Points a symbolic link at `target` (relative to the link's folder), in one rename.

    Returns:
        A warning if the disk did not confirm the rename; otherwise nothing.

    Raises:
        ResourceError: The disk is full; any existing link is unchanged.
        HomeError: Something that is not a link is there, the operating system refused, or the file system
            has no symbolic links; any existing link is unchanged.
    """
    staged = staged_path(link)
    with changing("switch", link):
        if os.path.lexists(link) and not link.is_symlink():
            raise HomeError(
                f"cannot switch {link}: it is {kind_at(link)}, which is left alone; move it elsewhere"
            )
        try:
            _disk.symlink(staged, target)
        except OSError as error:
            raise os_failure("link" if error.errno in NOT_OFFERED else "switch", link, error) from error
        _disk.rename(staged, link)
    try:
        confirm(link)
    except HomeError as error:
        return (error.message,)
    return ()


def move_file(source: Path, target: Path) -> None:
    """Moves a file to a free name in another folder.

    Between file systems, the file is copied, and removed once the copy is durable. Within one file system,
    the file is renamed, which is durable once the caller has synced both folders.

    Raises:
        ResourceError: The other disk is full; the file is where it was.
        HomeError: The file is not a regular one, the name is taken, the operating system refused, or the
            other disk did not confirm the copy.
    """
    with changing("move", source):
        if not is_regular_file(source):
            raise HomeError(f"cannot move {source}: it is {kind_at(source)}, not a file")
        if os.path.lexists(target):
            raise HomeError(f"cannot move {source} to {target}: there is already {kind_at(target)} there")
        try:
            _disk.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, target)
            confirm(target)
            _disk.unlink(source)


def _copy(source: Path, target: Path) -> None:
    """Copies a file to another file system, part by part, as it may be large."""
    staged = staged_path(target)
    remove_file(staged)  # a kill may have left one
    status = source.stat()
    try:
        with open_regular(source) as original, _disk.create_file(staged, 0o664) as file:
            _disk.give_to_owner_of(target.parent, file.fileno())
            while part := original.read(_COPIED_AT_ONCE):
                _disk.write(file, part)
            os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            _disk.sync_file(file)
        _disk.rename(staged, target)
    except BaseException:
        _disk.unlink(staged)
        raise


def remove_file(path: Path) -> None:
    """Removes a regular file if there is one, and never anything else; whoever has it open can still read it.

    The caller must know that the file is this program's own.

    Raises:
        HomeError: Something other than a file is there, or the operating system refused.
    """
    if not os.path.lexists(path):
        return
    with changing("remove", path):
        if not is_regular_file(path):
            raise HomeError(
                f"cannot remove {path}: it is {kind_at(path)}, which is left alone; move it elsewhere"
            )
        _disk.unlink(path)
        sync_folder(path.parent)


def remove_link(path: Path) -> None:
    """Removes a symbolic link, and never anything else; its target stays."""
    if path.is_symlink():
        with changing("remove", path):
            _disk.unlink(path)
            sync_folder(path.parent)


def remove_folder(path: Path, files: Collection[str], last: str | None = None) -> None:
    """Removes a folder that contains only regular files with given names; leaves any other folder alone.

    Sub-folders are never entered.

    Args:
        path: Path of the folder.
        files: Names of the files that it may contain.
        last: Name of the file to remove only once the removal of the others is durable.

    Raises:
        HomeError: Something else turned up in the folder meanwhile, so the folder stays; or the operating
            system refused.
    """
    if not is_real_folder(path) or not holds_only(path, files):
        return
    with changing("remove", path):
        names = sorted({entry.name for entry in entries(path)} & set(files))
        for name in names:
            if name != last:
                _disk.unlink(path / name)
        if last in names:
            sync_folder(path)
            _disk.unlink(path / last)
        _disk.remove_folder(path)
        sync_folder(path.parent)


@contextmanager
def temporary_folder(prefix: str = "lwm-edge-", *, inside: Path | None = None) -> Iterator[Path]:
    """Makes a folder for temporary files, and removes it at the end with all that is in it.

    Args:
        prefix: Beginning of the folder's name.
        inside: Folder to make it in; by default, the system's folder for temporary files.

    Raises:
        ResourceError: The folder cannot be made, or its disk is too small for what is written into it; then
            the error names TMPDIR too.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix, dir=inside)
    except OSError as error:
        raise temporary_failure(error.filename or "any folder", error.strerror) from error
    with folder as name:
        try:
            yield Path(name)
        except ResourceError as error:
            if name not in error.message or "TMPDIR" in error.message:
                raise
            raise ResourceError(
                f"{error.message}, or set TMPDIR to a folder on another disk", error.problems
            ) from error


def temporary_failure(folder: Path | str, why: str | None) -> ResourceError:
    """Makes the error for a folder that temporary files cannot be written to; it says what to do."""
    return ResourceError(
        f"cannot use {folder} for temporary files: {why}; set TMPDIR to a folder that can be written to, "
        "on a disk with free space"
    )

"""Writes the files that a user names: links are followed, and anything but a regular file is refused."""

from __future__ import annotations

import os
from pathlib import Path

from . import _streams
from .durability import changing, confirm
from .errors import ConfigError
from .inspection import explained, home_around, is_regular_file, kind_at
from .storage import replace_file, require_owner_can_be_kept, staged_path

STDOUT = "-"
"""Name that means standard output instead of a file."""


def check_output(path: Path | str, *, may_be_stdout: bool = False) -> None:
    """Refuses, before the work begins, an output that `write_output` could not write.

    Args:
        path: Path that the user named, or `STDOUT`.
        may_be_stdout: Whether the output may be standard output.

    Raises:
        ConfigError: The path leads to something other than a regular file, or the output cannot be written.
        HomeError: The operating system refused, or files cannot be changed safely on this system.
    """
    if path == STDOUT and may_be_stdout:
        return
    if str(path) == STDOUT and not may_be_stdout:
        raise ConfigError(f"{STDOUT} is standard output, which cannot be used here; give a file's name")
    path = Path(path)
    with changing("write", path):
        target = _output_target(path)
        staged = staged_path(target)
        if not target.parent.is_dir():
            raise ConfigError(f"cannot write {path}: give a file in a folder that exists")
        if not os.access(target.parent, os.W_OK):
            raise ConfigError(f"cannot write {path}: its folder is write-protected; give another one")
        if len(os.fsencode(staged.name)) > os.pathconf(target.parent, "PC_NAME_MAX"):
            raise ConfigError(f"cannot write {path}: its name is too long; give a shorter one")
        if os.path.lexists(staged) and not is_regular_file(staged):
            raise ConfigError(f"cannot write {path}: {staged} is {kind_at(staged)}; move it elsewhere")
        if target.exists():
            require_owner_can_be_kept(path, target.stat())


def write_output(path: Path | str, content: bytes) -> None:
    """Writes or replaces a file that a user named, atomically and durably.

    Links are followed, and a file that is replaced keeps its mode and its owner. The string `-` means
    standard output; a `Path` of that name means a file.

    Args:
        path: Path of the file.
        content: Content of the whole file.

    Raises:
        ConfigError: The path leads to something that may not be replaced, such as a device, a folder, another
            user's file or a write-protected file.
        ResourceError: The disk is full; the old file, if any, is untouched.
        HomeError: The operating system refused for another reason, or the disk did not confirm the new file.
        BusyError: Another process is writing the file at this moment.
    """
    if path == STDOUT:
        with explained("write to", Path("standard output")):
            _streams.write_stdout(content)
        return
    path = Path(path)
    with changing("write", path):
        target = _output_target(path)
        before = target.stat() if target.exists() else None
        replace_file(target, content, 0o600 if before else 0o664, before, replace=True)
    confirm(target)


def _output_target(path: Path) -> Path:
    """Returns the file that a user's path leads to through links; refuses anything but a regular file."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"cannot write {path}: it is {kind_at(path, follow=True)}; give the name of a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"cannot write {path}: it is write-protected; give another name, or chmod u+w it")
    if home := home_around(path):
        raise ConfigError(
            f"cannot write {path}: it is in the model home {home}, which may hold nothing but the model; "
            "choose another folder"
        )
    leads_to = path.parent / path.readlink() if path.is_symlink() else path
    if any(os.path.realpath(place.parent).startswith("/proc/") for place in (path, leads_to)):
        raise ConfigError(
            f"cannot write {path}: it stands for a file that is open already; give the file's own name"
        )
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise ConfigError(
            f"cannot write {path}: it is a link that leads in a circle; give the name of a file"
        )
    return target

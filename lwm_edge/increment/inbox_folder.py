"""Keeps the files of an inbox: the photos that have arrived, those in use, and the reasons why some wait.

    INBOX/CLASS/...                  photos that have arrived
    INBOX/CLASS.waits.json           the reason why the photos in CLASS wait; without it, they are tried again
                                     (if CLASS is too long for a file name, a part and a digest replace it)
    INBOX/.lwm-edge/lock             a lock file; the one process that works on the inbox holds the lock
    INBOX/.lwm-edge/note.json        a note: which model is learning, and from which photos
    INBOX/.lwm-edge/photos/CLASS/    the photos that the model is learning from

Unless photos are deleted after teaching, every photo is in one of three places: where it arrived, where the
model learns from it, or where the owner wants it afterwards. The note is on the disk before the first photo
leaves its class folder. It is removed once the last photo has reached its final place, has been deleted, or
is back in its class folder. So whatever a kill or a power cut leaves behind, the note explains it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from .. import durability, inspection, locks, storage
from ..errors import HomeError, PhotosError
from ..photos.listing import holds_files, is_ignored
from ..photos.photo_set import Photo, digest_of
from ..records import Digest, ExactPath, Record
from .inbox_moves import (
    folders_for,
    is_copy,
    make_folder_for_photos,
    move_beside_others,
    names_for,
    safe_name,
)
from .inbox_signature import fingerprint

Change = Literal["add-classes", "add-photos"]

_WORK, _NOTE, _LOCK, _PHOTOS = ".lwm-edge", "note.json", "lock", "photos"
_WAITS = ".waits.json"
_LONGEST_NAME = 200  # bytes of a class folder's name; file systems allow 255, including the endings


class NotedPhoto(Record):
    """Identifies a photo by its file name and its content."""

    name: ExactPath
    digest: Digest


class Note(Record):
    """Records which photos a model is learning from, so that they can be sorted out after an interruption.

    Attributes:
        home: Path of the model home.
        change: Kind of the change.
        folder: Name of the class folder.
        class_name: Name of the class, as the model will know it.
        increment: Number of the home's latest change before this one.
        model_digest: Digest of the home's model before this change.
        tried: Number of times that these photos were tried before.
        photos: Photos that the model is learning from.
    """

    home: ExactPath
    change: Change
    folder: ExactPath
    class_name: str
    increment: int
    model_digest: Digest
    tried: int
    photos: tuple[NotedPhoto, ...]

    @property
    def photos_digest(self) -> str:
        """Returns the digest of all the photos; the receipt of the change has the same digest."""
        return digest_of(photo.digest for photo in self.photos)


class Reason(Record):
    """Says why the photos of a class wait; people can read this in the file beside the class folder.

    Attributes:
        reason: Sentence that says what was wrong, and what to do.
        problems: Problems in detail.
        tried: Number of times that these photos were tried.
        final: Whether the photos are tried again only if the owner does what `try_again` says.
        try_again: Advice on how to have the photos tried again.
        photos: Digest of the class folder; see `fingerprint`. If it is None, the photos wait until the owner
            removes the file, whatever changes in the folder.
    """

    reason: str
    problems: tuple[str, ...] = ()
    tried: int
    final: bool
    try_again: str = "remove this file, or change the photos"
    photos: Digest | None


@dataclass(frozen=True)
class InboxFolder:
    """Moves the photos of an inbox, while this process holds the inbox's lock.

    Attributes:
        path: Path of the inbox.
        taught: Folder for photos that the model has learnt from; if it is None, they are deleted.
    """

    path: Path
    taught: Path | None

    @property
    def batch(self) -> Path:
        """Returns the folder to pass to `add_classes` or `add_photos`; its sub-folder holds the photos."""
        return self.path / _WORK / _PHOTOS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes this process the only one that works on the inbox.

        Raises:
            BusyError: Another process is working on it already.
            HomeError: The inbox is missing or cannot be written to.
        """
        if not self.path.is_dir():
            raise HomeError(f"{self.path} is not a folder; give the folder in which photos arrive")
        storage.make_folder(self.batch)
        busy = f"another process is already teaching from the photos in {self.path}; one is enough"
        with locks.exclusive_lock(self.path / _WORK / _LOCK, busy=busy):
            yield

    def class_folders(self) -> list[Path]:
        """Lists the class folders that hold files that may be photos, sorted by name; see `holds_files`."""
        return [path for path in self._entries() if path.is_dir() and holds_files(path)]

    def loose_files(self) -> list[Path]:
        """Lists the files that lie beside the class folders, sorted by name."""
        return [p for p in self._entries() if not p.is_dir() and not p.name.endswith(_WAITS)]

    def _entries(self) -> list[Path]:
        return [path for path in inspection.entries(self.path) if not is_ignored(path)]

    def note(self) -> Note | None:
        """Returns the note on the photos in use; None if there is none.

        Raises:
            HomeError: The note is damaged or cannot be read.
        """
        path = self.path / _WORK / _NOTE
        try:
            return Note.model_validate_json(inspection.read_regular(path))
        except FileNotFoundError:
            return None
        except (ValidationError, OSError):
            raise HomeError(
                f"{path} cannot be read, so it is not known whether the model has learnt from the photos in "
                f"{self.batch}; check with lwm-edge info --history, move the photos where they belong, and "
                "remove that file"
            ) from None

    def take(self, folder: Path, note: Note) -> None:
        """Takes the photos that a note lists out of their class folder, for teaching.

        Raises:
            PhotosError: The photos cannot be moved out of the owner's folder.
            HomeError: The inbox cannot be written to.
            ResourceError: The disk is full.
        """
        storage.write_file(self.path / _WORK / _NOTE, note.model_dump_json(indent=1).encode())
        target = self.batch / note.folder
        storage.make_folder(target)
        try:
            for photo in note.photos:
                storage.move_file(folder / photo.name, target / photo.name)
        except HomeError as error:
            raise PhotosError(f"the photos cannot be taken out of their folder: {error.message}") from None
        durability.sync_folder(folder)
        durability.sync_folder(target)

    def put_back(self, note: Note) -> None:
        """Puts the photos that a note lists back where they came from."""
        self._move_all(note, self.path, note.folder.name)
        self._forget(note)

    def put_away(self, note: Note) -> None:
        """Moves the photos that a note lists to where the owner wants them, or deletes them."""
        if self.taught:
            self._move_all(note, self.taught, note.class_name)
        else:
            for path in self._being_taught(note):
                storage.remove_file(path)
        self._forget(note)
        self.forget_reason(self.path / note.folder)

    def taught_folder(self, class_name: str) -> Path | None:
        """Returns the folder for a class's used photos; None if they are deleted."""
        folders = folders_for(self.taught, class_name) if self.taught else ()
        return next(filter(Path.is_dir, folders), folders[0] if folders else None)

    def reason(self, folder: Path) -> Reason | None:
        """Returns why a folder's photos wait; None if they do not wait, or have changed since."""
        try:
            found = Reason.model_validate_json(inspection.read_regular(reason_file(folder)))
        except (ValidationError, OSError):
            return None
        return found if found.photos in (None, fingerprint(folder)) else None

    def seconds_since_reason(self, folder: Path, now: float) -> float | None:
        """Returns the seconds since the reason was written; None if there is none, or the clock went back."""
        with suppress(OSError):
            seconds = now - reason_file(folder).stat().st_mtime
            return seconds if seconds >= 0 else None
        return None

    def write_reason(self, folder: Path, reason: Reason) -> None:
        """Says, in a file beside a class folder, why its photos wait.

        Raises:
            LwmEdgeError: The file cannot be written.
        """
        storage.write_file(reason_file(folder), reason.model_dump_json(indent=1).encode() + b"\n")

    def forget_reason(self, folder: Path) -> None:
        """Removes the reason beside a class folder, if lwm-edge wrote it."""
        _remove_reason(reason_file(folder))

    def forget_old_reasons(self) -> None:
        """Removes the reasons beside folders that are empty or gone."""
        current = {reason_file(folder) for folder in self.class_folders()}
        for path in inspection.entries(self.path):
            if path.name.endswith(_WAITS) and path not in current:
                _remove_reason(path)

    def was_taught(self, photo: Photo, class_name: str) -> bool:
        """Returns whether the class's used photos include a copy of this one, under any name it may get.

        Some tools deliver a file twice.
        """
        folder, names = self.taught_folder(class_name), names_for(photo.path, photo.digest)
        return folder is not None and any(is_copy(folder / name, photo.digest) for name in names)

    def _being_taught(self, note: Note) -> list[Path]:
        folder = self.batch / note.folder
        return inspection.entries(folder) if folder.is_dir() else []

    def _move_all(self, note: Note, parent: Path, name: str) -> None:
        paths = self._being_taught(note)
        if not paths:
            return
        target = make_folder_for_photos(parent, name)
        with locks.folder_lock(target):  # because two inboxes may share the folder for used photos
            for path in paths:
                move_beside_others(path, target)
        durability.sync_folder(target)
        durability.sync_folder(self.batch / note.folder)

    def _forget(self, note: Note) -> None:
        storage.remove_folder(self.batch / note.folder, ())
        storage.remove_file(self.path / _WORK / _NOTE)


def noted(photos: tuple[Photo, ...]) -> tuple[NotedPhoto, ...]:
    """Returns photos in the form in which a note lists them."""
    return tuple(NotedPhoto(name=Path(photo.path.name), digest=photo.digest) for photo in photos)


def reason_file(folder: Path) -> Path:
    """Returns the file that says why the photos of a class folder wait."""
    name, encoded = folder.name, os.fsencode(folder.name)
    if len(encoded) > _LONGEST_NAME:
        name = safe_name(name, hashlib.sha256(encoded).hexdigest())
    return folder.with_name(f"{name}{_WAITS}")


def _remove_reason(path: Path) -> None:
    """Removes a file that says why photos wait, if lwm-edge wrote it."""
    with suppress(ValidationError, OSError):
        Reason.model_validate_json(inspection.read_regular(path))
        storage.remove_file(path)

"""Keeps the files of an inbox: the photos that have arrived, those in use, and the reasons why some wait.

    INBOX/CLASS/...                  photos that have arrived
    INBOX/CLASS.waits.json           the reason why the photos in CLASS wait; without it, they are tried again
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
from ..photos.checking import file_digest
from ..photos.listing import photo_files
from ..photos.photo_set import Photo, digest_of
from ..records import Digest, ExactPath, Record

Change = Literal["add-classes", "add-photos"]
Signature = tuple[tuple[str, int, str, int, int], ...]
"""Names, lengths, permissions and times of a folder's files; the signature changes whenever a file does."""

_WORK, _NOTE, _LOCK, _PHOTOS = ".lwm-edge", "note.json", "lock", "photos"
_WAITS = ".waits.json"


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
        """Lists the class folders that hold files that may be photos, sorted by name; see `photo_files`."""
        folders = [p for p in inspection.entries(self.path) if not p.name.startswith(".") and p.is_dir()]
        return [path for path in folders if _files_in(path)]

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
        """Takes the photos of a note out of their class folder, for teaching.

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
        """Puts the photos of a note back where they came from."""
        self._move_all(note, self.path / note.folder)
        self._forget(note)

    def put_away(self, note: Note) -> None:
        """Moves the photos of a note to where the owner wants them, or deletes them."""
        if self.taught:
            self._move_all(note, self.taught / note.class_name)
        else:
            for path in self._being_taught(note):
                storage.remove_file(path)
        self._forget(note)
        self.forget_reason(self.path / note.folder)

    def reason(self, folder: Path) -> Reason | None:
        """Returns why a folder's photos wait; None if they do not wait, or have changed since."""
        try:
            found = Reason.model_validate_json(inspection.read_regular(_reason_file(folder)))
        except (ValidationError, OSError):
            return None
        return found if found.photos in (None, fingerprint(folder)) else None

    def seconds_since_reason(self, folder: Path, now: float) -> float | None:
        """Returns the seconds since the reason was written; None if there is none, or the clock went back."""
        with suppress(OSError):
            seconds = now - _reason_file(folder).stat().st_mtime
            return seconds if seconds >= 0 else None
        return None

    def write_reason(self, folder: Path, reason: Reason) -> None:
        """Says, in a file beside a class folder, why its photos wait.

        Raises:
            LwmEdgeError: The file cannot be written.
        """
        storage.write_file(_reason_file(folder), reason.model_dump_json(indent=1).encode() + b"\n")

    def forget_reason(self, folder: Path) -> None:
        """Removes the reason beside a class folder, if lwm-edge wrote it."""
        path = _reason_file(folder)
        with suppress(ValidationError, OSError):
            Reason.model_validate_json(inspection.read_regular(path))
            storage.remove_file(path)

    def forget_old_reasons(self) -> None:
        """Removes the reasons beside folders that are empty or gone."""
        for path in inspection.entries(self.path):
            folder = path.with_name(path.name.removesuffix(_WAITS))
            if path.name.endswith(_WAITS) and not (folder.is_dir() and _files_in(folder)):
                self.forget_reason(folder)

    def was_taught(self, photo: Photo, class_name: str) -> bool:
        """Returns whether the class's taught photos include a file of this name and content.

        Some tools deliver a file twice.
        """
        if self.taught is None:
            return False
        path = self.taught / class_name / photo.path.name
        with suppress(PhotosError):
            return inspection.is_regular_file(path) and file_digest(path) == photo.digest
        return False

    def _being_taught(self, note: Note) -> list[Path]:
        folder = self.batch / note.folder
        return inspection.entries(folder) if folder.is_dir() else []

    def _move_all(self, note: Note, target: Path) -> None:
        paths = self._being_taught(note)
        if not paths:
            return
        storage.make_folder(target)
        with locks.folder_lock(target):  # because two inboxes may share the folder for taught photos
            for path in paths:
                _move_beside_others(path, target)
        durability.sync_folder(target)
        durability.sync_folder(self.batch / note.folder)

    def _forget(self, note: Note) -> None:
        storage.remove_folder(self.batch / note.folder, ())
        storage.remove_file(self.path / _WORK / _NOTE)


def signature(folder: Path) -> Signature:
    """Describes the files in a folder, including hidden ones, because some tools first copy to a hidden file.

    The folder's own permissions count too. When an owner allows photos to be moved out of the folder, only
    these permissions change.

    Raises:
        HomeError: The folder cannot be read.
    """
    with inspection.explained("read", folder):
        found = [(".", 0, _permissions(folder.stat()), 0, 0)]
    for path in inspection.entries(folder):
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


def noted(photos: tuple[Photo, ...]) -> tuple[NotedPhoto, ...]:
    """Returns photos in the form in which a note lists them."""
    return tuple(NotedPhoto(name=Path(photo.path.name), digest=photo.digest) for photo in photos)


def _move_beside_others(path: Path, folder: Path) -> None:
    """Moves a photo into a folder; renames it if its name is taken, or deletes it if it is a copy."""
    target = folder / path.name
    if inspection.is_regular_file(target):
        digest = file_digest(path)
        with suppress(PhotosError):
            if file_digest(target) == digest:  # it was copied before an interruption, or given twice
                storage.remove_file(path)
                return
        target = target.with_name(f"{path.stem}-{digest[:12]}{path.suffix}")
        if inspection.is_regular_file(target):
            storage.remove_file(path)
            return
    storage.move_file(path, target)


def _reason_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_WAITS}")


def _files_in(folder: Path) -> list[Path]:
    """Lists the files of a class folder that may be photos; none if the folder cannot be read."""
    with suppress(OSError):
        return photo_files(folder)
    return []

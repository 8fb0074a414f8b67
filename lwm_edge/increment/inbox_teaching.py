"""Teaches a model the class of one folder of an inbox, and sorts out what an interruption left behind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..advice import home_option
from ..errors import ConfigError, LwmEdgeError, PhotosError, ResourceError, shortened
from ..home.home import Home
from ..learning.config import IncrementConfig
from ..model.manifest import Manifest
from ..photos.folders import usable_photos
from ..photos.listing import LISTED
from ..photos.photo_set import Photo
from ..records import ProgressCallback, printable
from .add import add_classes, add_photos
from .inbox_folder import InboxFolder, Note, Reason, noted
from .inbox_record import latest_receipt, manifest_of, was_learnt
from .inbox_signature import fingerprint
from .inbox_wording import class_name_in, question
from .plan import memory_limit
from .reports import IncrementReport

PAUSES = (0.0, 0.0, 0.0, 600.0, 3600.0)
"""Seconds before the next try, by the number of tries so far; after five tries, photos wait for the owner."""


@dataclass(frozen=True)
class Usable:
    """Holds a class folder's usable photos.

    Attributes:
        photos: Photos that the model can learn from.
        problems: Reasons why the other files cannot be used.
        manifest: Manifest of the home's model.
    """

    photos: tuple[Photo, ...]
    problems: tuple[str, ...]
    manifest: Manifest


@dataclass(frozen=True)
class Teaching:
    """Teaches a home's model the classes of an inbox.

    Attributes:
        home: Model home.
        folder: Inbox, whose lock is held.
        config: Settings of each change.
        on_progress: Function that is called at every step.
        isolate: Whether to learn in worker processes.
    """

    home: Home
    folder: InboxFolder
    config: IncrementConfig
    on_progress: ProgressCallback
    isolate: bool

    def recover(self) -> tuple[str, ...]:
        """Sorts out photos that were in use when teaching was interrupted.

        If the model has learnt from them, they are moved to the folder for used photos, or deleted.
        Otherwise, they are put back into their class folder.

        Returns:
            What was done, in sentences.

        Raises:
            ConfigError: The photos were in use for another home's model.
        """
        note = self.folder.note()
        if note is None:
            return ()
        if note.home != self.home.path:
            raise ConfigError(
                f"teaching {note.class_name} to another home's model, with photos from {self.folder.path}, "
                f"was interrupted; run lwm-edge inbox with {home_option(note.home)} first"
            )
        if self._resolve(note, None):
            done = "moved" if self.folder.taught else "deleted"
            return (f"{note.class_name} had been learnt before an interruption; its photos were {done}",)
        return (f"teaching {note.class_name} was interrupted; its photos were put back",)

    def too_few(self, count: int) -> str:
        """Says that a class folder has too few photos."""
        are_there = "there is" if count == 1 else "there are"
        return f"at least {self.config.min_photos} usable photos are needed, but {are_there} {count}"

    def usable(self, path: Path) -> Usable:
        """Finds a class folder's usable photos, and says why its other files cannot be used.

        Raises:
            PhotosError: The class folder is a link, so its photos are not the inbox's to move or delete.
            LwmEdgeError: The home or the photos cannot be read here.
        """
        if path.is_symlink():
            raise PhotosError(
                f"{printable(path)} is a link to another folder, whose photos are not used; "
                "replace the link with a folder, and copy the photos into it"
            )
        manifest = manifest_of(self.home)
        limit, _ = memory_limit(self.config)
        photos, problems = usable_photos(path, manifest.preprocessing, limit)
        usable, more = [], []
        for photo in photos:
            name = printable(Path(photo.path.name))
            if photo.path.is_symlink():
                more.append(f"{name} is a link")
            elif self.folder.was_taught(photo, class_name_in(path, manifest)):
                more.append(f"{name} has been used for teaching: the same file is in {self.folder.taught}")
            else:
                usable.append(photo)
        return Usable(tuple(usable), (*problems, *shortened(more, LISTED)), manifest)

    def learn(self, path: Path, usable: Usable, tried: int) -> tuple[Note, IncrementReport]:
        """Takes photos out of their folder and learns from them.

        If that fails before the model has learnt, puts them back.

        Args:
            path: Path of the class folder.
            usable: Photos to learn from.
            tried: Number of times that these photos were tried before.

        Raises:
            LwmEdgeError: There are too few photos, or taking them or learning from them failed.
        """
        if len(usable.photos) < self.config.min_photos:
            raise PhotosError(self.too_few(len(usable.photos)), usable.problems)
        self.recover()  # photos may be left from an earlier try; `take` would replace the note on them
        manifest = usable.manifest
        name = class_name_in(path, manifest)
        note = Note(
            home=self.home.path,
            change="add-photos" if name in manifest.class_names else "add-classes",
            folder=Path(path.name),
            class_name=name,
            increment=manifest.increment_count,
            model_digest=manifest.model_digest,
            tried=tried,
            photos=noted(usable.photos),
        )
        try:
            self.folder.take(path, note)
            return note, self._learn_taken(note)
        except BaseException as error:
            left = self.folder.note()
            is_learnt = left is not None and self._resolve(left, error)
            if is_learnt and isinstance(error, LwmEdgeError):
                return note, latest_receipt(self.home)
            if isinstance(error, PhotosError) and is_learnt is False:
                now = manifest_of(self.home)
                was_known, is_known = (name in names for names in (manifest.class_names, now.class_names))
                if was_known != is_known:  # another process has added or removed the class
                    return self.learn(path, replace(usable, manifest=now), tried)
            raise

    def _learn_taken(self, note: Note) -> IncrementReport:
        """Learns from all the photos or none, so that the receipt's digest shows whether they were used."""
        all_of_them = self.config.model_copy(update={"min_photos": len(note.photos)})
        common: Any = {"on_progress": self.on_progress, "isolate": self.isolate, "wait": True}
        if note.change == "add-classes":
            return add_classes(self.home, self.folder.batch, all_of_them, **common)
        # solve_head replaces a trained last layer with a solved one, as recipe lda does in add_classes.
        return add_photos(self.home, self.folder.batch, all_of_them, solve_head=True, **common)

    def _resolve(self, note: Note, error: BaseException | None) -> bool | None:
        """Puts the photos that a note lists where they belong.

        Args:
            note: Note on the photos that the model was learning from.
            error: Error that ended the teaching; None if the whole process ended.

        Returns:
            Whether the model has learnt from the photos; None if that is not clear.
        """
        learnt = was_learnt(self.home, note)
        if learnt:
            self.folder.put_away(note)
            return learnt
        path = self.folder.path / note.folder
        if learnt is None:  # without this question, the photos would be used again once they are back
            self.folder.write_reason(path, question(note))
        self.folder.put_back(note)
        if error is None and learnt is not None:  # photos that crash the process must not be tried for ever
            interrupted = ResourceError(
                f"teaching was interrupted; these photos are tried at most {len(PAUSES)} times, "
                "and then wait for you"
            )
            self.write_reason(path, interrupted, tried=note.tried + 1, final=False)
        return learnt

    def write_refusal(self, path: Path, error: LwmEdgeError, tried: int) -> None:
        """Says, in a file beside a class folder, why the model could not learn from its photos.

        Args:
            path: Path of the class folder.
            error: Error that ended the teaching.
            tried: Number of times that these photos were tried before.
        """
        written = self.folder.reason(path)
        if written is None or written.tried <= tried:  # otherwise `_resolve` has just written a better reason
            final = not isinstance(error, ResourceError) and type(error) is not LwmEdgeError
            self.write_reason(path, error, tried=tried + 1, final=final)

    def write_reason(self, path: Path, error: LwmEdgeError, *, tried: int, final: bool) -> None:
        """Says, in a file beside a class folder, why its photos wait.

        Args:
            path: Path of the class folder.
            error: Error that says why.
            tried: Number of times that these photos were tried.
            final: Whether the photos are tried again only if the owner does something; see `Reason`.
        """
        reason = Reason(
            reason=error.message,
            problems=error.problems,
            tried=tried,
            final=final or tried >= len(PAUSES),
            photos=fingerprint(path),
        )
        with suppress(LwmEdgeError):
            self.folder.write_reason(path, reason)

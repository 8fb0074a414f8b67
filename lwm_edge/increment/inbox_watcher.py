"""Looks at an inbox, teaches the class folders that have come to rest, and says why the others wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .. import inspection
from ..errors import (
    BundleError,
    BusyError,
    CapacityError,
    ConfigError,
    HomeError,
    LwmEdgeError,
    PhotosError,
    ResourceError,
    StoppedError,
    TrustError,
)
from ..home.home import Generation, Home
from ..learning.config import IncrementConfig
from ..model.bundle import open_bundle
from ..model.custody_record import Link
from ..model.manifest import Manifest
from ..photos.class_names import class_name_of, fold_class_name
from ..photos.folders import usable_photos
from ..photos.listing import photo_files
from ..photos.photo_set import Photo
from ..records import ProgressCallback, printable
from .add import add_classes, add_photos
from .inbox_folder import InboxFolder, Note, Reason, Signature, fingerprint, noted, signature
from .inbox_reports import InboxReport, State, TaughtClass, WaitingClass
from .plan import memory_limit
from .reports import IncrementReport

_PAUSES = (0.0, 0.0, 0.0, 600.0, 3600.0)  # seconds before the next try, by the number of tries
_ABOUT_THE_HOME = (BundleError, BusyError, HomeError, StoppedError, TrustError)


@dataclass
class Watcher:
    """Looks at an inbox again and again, and teaches what has come to rest.

    Attributes:
        home: Model home.
        folder: Inbox, whose lock is held.
        config: Settings of each change.
        quiet_seconds: Seconds for which a class folder must not change before it is taught.
        on_progress: Function that is called at every step.
        isolate: Whether to learn in worker processes.
        seen: Signature of each class folder, and the time on the monotonic clock from which it has been the
            same.
    """

    home: Home
    folder: InboxFolder
    config: IncrementConfig
    quiet_seconds: float
    on_progress: ProgressCallback
    isolate: bool
    seen: dict[Path, tuple[Signature, float]] = field(default_factory=dict)

    def look(self) -> None:
        """Notes what is in the class folders now."""
        now, before = time.monotonic(), self.seen
        self.seen = {}
        for path in self.folder.class_folders():
            found = signature(path)
            known = before.get(path)
            self.seen[path] = known if known and known[0] == found else (found, now)

    def teach(self, notes: tuple[str, ...] = ()) -> InboxReport:
        """Teaches every class folder that has come to rest."""
        taught: list[TaughtClass] = []
        waiting: list[WaitingClass] = []
        self.folder.forget_old_reasons()
        self.look()
        for path in sorted(self.seen):
            found = self._teach_class(path)
            taught += [found] if isinstance(found, TaughtClass) else []
            waiting += self._left_in(path, found)
        return InboxReport(
            home=self.home.path,
            inbox=self.folder.path,
            taught=tuple(taught),
            waiting=tuple(waiting),
            notes=notes,
        )

    def recover(self) -> tuple[str, ...]:
        """Deals with photos that an interruption left half-way: puts them away if learnt, else back.

        Returns:
            What was done, in sentences.

        Raises:
            ConfigError: The photos were being taught to another home.
        """
        note = self.folder.note()
        if note is None:
            return ()
        if note.home != self.home.path:
            raise ConfigError(
                f"teaching {note.class_name} from {self.folder.path} to another home was interrupted; run "
                f"lwm-edge inbox with --home {note.home} first"
            )
        if self._resolve(note, None):
            return (f"{note.class_name} had been learnt before an interruption; its photos were put away",)
        return (f"{note.class_name} had not been learnt before an interruption; its photos were put back",)

    def _left_in(self, path: Path, found: TaughtClass | WaitingClass) -> Iterator[WaitingClass]:
        """Yields what waits in a class folder, even if other photos in it were just taught."""
        if isinstance(found, WaitingClass):
            yield found
        elif reason := self.folder.reason(path):
            yield self._waiting(path, "waiting", _in_words(reason))

    def _teach_class(self, path: Path) -> TaughtClass | WaitingClass:
        """Teaches what is in a class folder, or says why not."""
        found, since = self.seen[path]
        if time.monotonic() - since < self.quiet_seconds or signature(path) != found:
            return self._waiting(path, "arriving", f"changed less than {self.quiet_seconds:.0f} s ago")
        reason = self.folder.reason(path)
        if reason and not self._is_due(path, reason):
            return self._waiting(path, "waiting", _in_words(reason))
        if (count := len(photo_files(path))) < self.config.min_photos and not reason:
            return self._waiting(path, "collecting", self._too_few(count))
        tried = reason.tried if reason else 0
        try:
            photos, problems, manifest = self._usable(path)
            if len(photos) < self.config.min_photos and not problems:
                return self._waiting(path, "collecting", self._too_few(len(photos)))
            note, receipt = self._learn(path, photos, problems, manifest, tried)
        except LwmEdgeError as error:
            if isinstance(error, _ABOUT_THE_HOME) and not isinstance(error, CapacityError):
                raise
            return self._refuse(path, error, tried)
        self.folder.put_away(note)
        if problems:
            some = PhotosError("the other photos were taught, but not these", problems)
            self._write_reason(path, some, tried=1, final=True)
        self.seen.pop(path)
        return _taught(note, receipt, self.folder.taught)

    def _is_due(self, path: Path, reason: Reason) -> bool:
        """Tells whether photos that could not be taught are to be tried again now."""
        if reason.final or reason.tried >= len(_PAUSES):
            return False
        passed = self.folder.seconds_since_reason(path, time.time())
        return passed is None or passed >= _PAUSES[reason.tried]

    def _too_few(self, count: int) -> str:
        are_there = "there is" if count == 1 else "there are"
        return f"at least {self.config.min_photos} usable photos are needed, but {are_there} {count}"

    def _usable(self, path: Path) -> tuple[tuple[Photo, ...], tuple[str, ...], Manifest]:
        """Finds the photos that can be taught, and says why the other files cannot."""
        manifest = self.home.read(_manifest)
        limit, _ = memory_limit(self.config)
        photos, problems = usable_photos(path, manifest.preprocessing, limit)
        usable = []
        for photo in photos:
            if photo.path.is_symlink():
                problems += (f"{printable(Path(photo.path.name))} is a link",)
            elif self.folder.was_taught(photo, _name_of(path, manifest)):
                name = printable(Path(photo.path.name))
                problems += (f"{name} was taught before: the same file is in {self.folder.taught}",)
            else:
                usable.append(photo)
        return tuple(usable), problems, manifest

    def _learn(
        self,
        path: Path,
        photos: tuple[Photo, ...],
        problems: tuple[str, ...],
        manifest: Manifest,
        tried: int,
    ) -> tuple[Note, IncrementReport]:
        """Takes photos and learns them; if that fails, they are put back unless they had been learnt already.

        Raises:
            LwmEdgeError: Taking or learning the photos failed.
        """
        if len(photos) < self.config.min_photos:
            raise PhotosError(self._too_few(len(photos)), problems)
        name = _name_of(path, manifest)
        note = Note(
            home=self.home.path,
            change="add-photos" if name in manifest.class_names else "add-classes",
            folder=Path(path.name),
            class_name=name,
            increment=manifest.increment_count,
            model_digest=manifest.model_digest,
            tried=tried,
            photos=noted(photos),
        )
        try:
            self.folder.take(path, note)
            return note, self._learn_taken(note)
        except BaseException as error:
            left = self.folder.note()
            is_learnt = left is not None and self._resolve(left, error)
            if is_learnt and isinstance(error, LwmEdgeError):
                return note, _receipt(self.home)
            if isinstance(error, PhotosError) and is_learnt is False:
                now = self.home.read(_manifest)
                if (name in now.class_names) != (name in manifest.class_names):  # another process taught it
                    return self._learn(path, photos, problems, now, tried)
            raise

    def _learn_taken(self, note: Note) -> IncrementReport:
        """Learns all photos that were taken, or none; the receipt's digest shows whether they were learnt."""
        all_of_them = self.config.model_copy(update={"min_photos": len(note.photos)})
        common: Any = {"on_progress": self.on_progress, "isolate": self.isolate, "wait": True}
        if note.change == "add-classes":
            return add_classes(self.home, self.folder.batch, all_of_them, **common)
        # With solve_head, this replaces a last layer that was trained, as add_classes does with this recipe.
        return add_photos(self.home, self.folder.batch, all_of_them, solve_head=True, **common)

    def _resolve(self, note: Note, error: BaseException | None) -> bool | None:
        """Puts the photos of a note where they belong.

        Args:
            note: Note on what was being taught.
            error: Error that ended the teaching; None if the process ended.

        Returns:
            Whether they were learnt; None if that is not clear.
        """
        learnt = was_learnt(self.home, note)
        if learnt:
            self.folder.put_away(note)
            return learnt
        self.folder.put_back(note)
        path = self.folder.path / note.folder
        if learnt is None:
            unclear = HomeError(
                "teaching was interrupted, and it is not clear whether these photos were learnt, because the "
                "home was changed in the meantime: check with lwm-edge info --history"
            )
            told = error if isinstance(error, LwmEdgeError) else unclear
            self._write_reason(path, told, tried=note.tried + 1, final=True)
        elif error is None:  # photos that end the process each time must not be tried for ever
            interrupted = ResourceError("teaching was interrupted; the photos will be tried again later")
            self._write_reason(path, interrupted, tried=note.tried + 1, final=False)
        return learnt

    def _refuse(self, path: Path, error: LwmEdgeError, tried: int) -> WaitingClass:
        """Says why a folder's photos wait, in what it returns and in a file beside them."""
        written = self.folder.reason(path)
        if written is None or written.tried <= tried:  # else `_resolve` has written a better one
            final = not isinstance(error, ResourceError) and type(error) is not LwmEdgeError
            self._write_reason(path, error, tried=tried + 1, final=final)
        return self._waiting(path, "waiting", str(error))

    def _write_reason(self, path: Path, error: LwmEdgeError, *, tried: int, final: bool) -> None:
        reason = Reason(
            reason=error.message,
            problems=error.problems,
            tried=tried,
            final=final or tried >= len(_PAUSES),
            photos=fingerprint(path),
        )
        self.folder.write_reason(path, reason)

    def _waiting(self, path: Path, state: State, reason: str) -> WaitingClass:
        try:
            photos = len(photo_files(path))
        except OSError:
            photos = 0
        return WaitingClass(class_name=printable(Path(path.name)), state=state, photos=photos, reason=reason)


def _manifest(generation: Generation) -> Manifest:
    return open_bundle(generation.bundle).manifest


def _receipt(home: Home) -> IncrementReport:
    return IncrementReport.model_validate_json(inspection.read_regular(home.current().receipt))


def _name_of(folder: Path, manifest: Manifest) -> str:
    """Returns the name of a folder's class as the model writes it, if it knows the class."""
    name = class_name_of(folder)
    known = {fold_class_name(name): name for name in manifest.class_names}
    return known.get(fold_class_name(name), name)


def was_learnt(home: Home, note: Note) -> bool | None:
    """Tells from a home's record whether the photos of a note were learnt; None if the record does not say.

    The record names every change, but not its photos. The receipt of the latest change has their digest.
    """
    manifest = home.read(_manifest)
    links = manifest.custody.links if manifest.custody else ()
    later = [link for link in links if link.increment > note.increment]
    if manifest.increment_count <= note.increment:
        return False  # nothing has changed since, or the home was started over
    if len(later) < manifest.increment_count - note.increment:
        return None  # the record does not reach back that far
    may_be_ours = [link.increment for link in later if _teaches(link, note)]
    if not may_be_ours or later[0].parent_digest != note.model_digest:
        return False  # in the second case, the home was started over
    try:
        learnt = _receipt(home).photos_digest
    except (ValidationError, OSError):  # the receipt is for another kind of change, or was rebuilt
        return None
    if learnt == note.photos_digest:
        return True
    was_another_teaching = learnt is not None and may_be_ours == [manifest.increment_count]
    return False if was_another_teaching else None


def _teaches(link: Link, note: Note) -> bool:
    """Tells whether a change is of the kind that a note names, and teaches the note's class alone."""
    deed = link.deed
    if deed is None or deed.kind != note.change or deed.more_classes:
        return False
    return [fold_class_name(name) for name in deed.class_names] == [fold_class_name(note.class_name)]


def _taught(note: Note, receipt: IncrementReport, taught: Path | None) -> TaughtClass:
    return TaughtClass(
        class_name=note.class_name,
        change=note.change,
        photos=len(note.photos),
        right=sum(judged.right for judged in receipt.judged),
        judged=sum(judged.photos for judged in receipt.judged),
        moved_to=taught / note.class_name if taught else None,
        model_digest=receipt.model_digest,
        warnings=receipt.warnings,
    )


def _in_words(reason: Reason) -> str:
    return "\n".join([reason.reason, *(f"  - {problem}" for problem in reason.problems)])

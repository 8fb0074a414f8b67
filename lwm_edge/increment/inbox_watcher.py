"""Teaches a model the classes whose folders in an inbox no longer change, and says why the others wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import (
    BundleError,
    BusyError,
    CapacityError,
    HomeError,
    LwmEdgeError,
    PhotosError,
    StoppedError,
    TrustError,
    shortened,
)
from ..photos.listing import NAMED, files_below, list_one_level
from ..records import printable
from .inbox_folder import InboxFolder, Note, Reason
from .inbox_reports import InboxReport, State, TaughtClass, WaitingClass
from .inbox_signature import Signature, signature
from .inbox_teaching import PAUSES, Teaching
from .inbox_wording import in_owners_words
from .reports import IncrementReport

_ABOUT_THE_HOME = (BundleError, BusyError, HomeError, StoppedError, TrustError)


@dataclass
class Watcher:
    """Looks at an inbox again and again, and teaches the model the classes whose folders no longer change.

    Attributes:
        teaching: Object that teaches the model.
        quiet_seconds: Seconds for which a class folder must stay unchanged before its photos are used.
        seen: Signature of each class folder, and when (on the monotonic clock) this signature was first seen.
    """

    teaching: Teaching
    quiet_seconds: float
    seen: dict[Path, tuple[Signature, float]] = field(default_factory=dict)

    @property
    def folder(self) -> InboxFolder:
        """Returns the inbox, whose lock is held."""
        return self.teaching.folder

    def look(self) -> None:
        """Notes which files are in the class folders now."""
        now, before = time.monotonic(), self.seen
        self.seen = {}
        for path in self.folder.class_folders():
            found = signature(path)
            known = before.get(path)
            self.seen[path] = known if known and known[0] == found else (found, now)

    def teach(self, notes: tuple[str, ...] = ()) -> InboxReport:
        """Teaches the model the classes whose folders are ready, and says why the others wait.

        Args:
            notes: Notes that the report lists before any on files beside the class folders.
        """
        taught: list[TaughtClass] = []
        waiting: list[WaitingClass] = []
        self.folder.forget_old_reasons()
        self.look()
        for path in sorted(self.seen):
            found = self._teach_class(path)
            taught += [found] if isinstance(found, TaughtClass) else []
            waiting += self._left_in(path, found)
        return InboxReport(
            home=self.teaching.home.path,
            inbox=self.folder.path,
            taught=tuple(taught),
            waiting=tuple(waiting),
            notes=(*notes, *self._on_loose_files()),
        )

    def _on_loose_files(self) -> Iterator[str]:
        """Yields a note on files that lie beside the class folders, if there are any."""
        if names := [printable(Path(path.name)) for path in self.folder.loose_files()]:
            yield (
                "these files lie beside the class folders, so the model learns nothing from them: "
                f"{', '.join(shortened(names, NAMED))}; move them into a folder named after their class, "
                f"such as {printable(self.folder.path / 'CLASS')}"
            )

    def _left_in(self, path: Path, found: TaughtClass | WaitingClass) -> Iterator[WaitingClass]:
        """Yields a report on photos that wait in a class folder, even if others in it were just used."""
        if isinstance(found, WaitingClass):
            yield found
        elif reason := self.folder.reason(path):
            yield _waiting(path, "waiting", _in_words(reason))

    def _teach_class(self, path: Path) -> TaughtClass | WaitingClass:
        """Teaches the model the class of a folder, or says why its photos wait."""
        found, since = self.seen[path]
        if time.monotonic() - since < self.quiet_seconds or signature(path) != found:
            unchanged = f"the folder must stay unchanged for {self.quiet_seconds:.0f} s first"
            return _waiting(path, "arriving", unchanged)
        reason = self.folder.reason(path)
        if reason and not self._is_due(path, reason):
            return _waiting(path, "waiting", _in_words(reason))
        least, listed = self.teaching.config.min_photos, list_one_level(path)
        has_problems = listed.problems or path.is_symlink()
        if (count := len(listed.files)) < least and not reason and not has_problems:
            return _waiting(path, "collecting", self.teaching.too_few(count))
        tried = reason.tried if reason else 0
        try:
            usable = self.teaching.usable(path)
            if (count := len(usable.photos)) < least and not usable.problems:
                return _waiting(path, "collecting", self.teaching.too_few(count))
            note, receipt = self.teaching.learn(path, usable, tried)
        except LwmEdgeError as error:
            if isinstance(error, _ABOUT_THE_HOME) and not isinstance(error, CapacityError):
                raise
            refusal = in_owners_words(error, path, self.folder, self.teaching.home)
            self.teaching.write_refusal(path, refusal, tried)
            written = self.folder.reason(path)  # may be a question that `Teaching` asks the owner
            return _waiting(path, "waiting", _in_words(written) if written else str(refusal))
        self.folder.put_away(note)
        if usable.problems:
            why = "the model has learnt from the other photos, but not from these"
            some = PhotosError(why, usable.problems)
            self.teaching.write_reason(path, some, tried=1, final=True)
        self.seen.pop(path)
        return _taught(note, receipt, self.folder.taught_folder(note.class_name))

    def _is_due(self, path: Path, reason: Reason) -> bool:
        """Returns whether it is time to try again with photos that the model could not learn from before."""
        if reason.final or reason.tried >= len(PAUSES):
            return False
        passed = self.folder.seconds_since_reason(path, time.time())
        return passed is None or passed >= PAUSES[reason.tried]


def _waiting(path: Path, state: State, reason: str) -> WaitingClass:
    photos = list_one_level(path).files or files_below(path)[0]
    return WaitingClass(class_name=printable(Path(path.name)), state=state, photos=len(photos), reason=reason)


def _taught(note: Note, receipt: IncrementReport, moved_to: Path | None) -> TaughtClass:
    return TaughtClass(
        class_name=note.class_name,
        change=note.change,
        photos=len(note.photos),
        right=sum(judged.right for judged in receipt.judged),
        judged=sum(judged.photos for judged in receipt.judged),
        moved_to=moved_to,
        model_digest=receipt.model_digest,
        warnings=receipt.warnings,
    )


def _in_words(reason: Reason) -> str:
    return "\n".join([reason.reason, *(f"  - {problem}" for problem in reason.problems)])

"""Holds a home and two inboxes for it, and checks them; `inbox_crash.py` kills the processes that teach."""

from __future__ import annotations

import hashlib
import io
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

import lwm_edge
from lwm_edge.demo import DEMO_DATA
from lwm_edge.home.home import Home
from lwm_edge.increment.inbox_folder import InboxFolder, Note
from lwm_edge.model.tensors import COUNTS

PHOTOS = 6
HALF_COPIED = 2  # two of the PHOTOS, because a single photo cannot be taught
MOST_PARTS, PAUSE = 40, 0.1  # parts in which a photo is copied slowly, and the seconds between them


@dataclass
class Noted:
    """Remembers the photos that a killed process had noted, until they are where they belong.

    Attributes:
        inbox: Path of the inbox.
        note: Note that the process left.
        learnt: Whether the model had learnt from the photos.
    """

    inbox: Path
    note: Note
    learnt: bool

    def left(self) -> list[Path]:
        """Lists the noted photos that are still in the inbox."""
        digests = {photo.digest for photo in self.note.photos}
        return [path for path in photos_in(self.inbox) if digest_of(path) in digests]

    def question(self) -> Path | None:
        """Returns the file that asks the owner whether the photos were learnt from; None if there is none."""
        path = self.inbox / f"{self.note.folder}.waits.json"
        return path if path.exists() and "it is not clear" in path.read_text() else None


@dataclass
class World:
    """Holds a home, its two inboxes, and what has arrived in them.

    Attributes:
        root: Folder with the home, the inboxes, and the folder of used photos, which the inboxes share.
        chance: Source of all choices.
        arrived: Digests of the photos that have arrived as a whole.
        half_copied: Whole contents of the photos of which only a part has arrived, by path.
        noted: Photos that killed processes had noted and that are not yet where they belong.
        names: Number of photos that have arrived in each inbox; both inboxes use the same names.
        classes: Number of classes that have arrived.
    """

    root: Path
    chance: random.Random
    arrived: Counter[str] = field(default_factory=Counter)
    half_copied: dict[Path, bytes] = field(default_factory=dict)
    noted: list[Noted] = field(default_factory=list)
    names: Counter[Path] = field(default_factory=Counter)
    classes: int = 0

    @property
    def home(self) -> Home:
        """Returns the home that both inboxes are for."""
        return Home(self.root / "home")

    @property
    def taught(self) -> Path:
        """Returns the folder of used photos."""
        return self.root / "taught"

    @property
    def inboxes(self) -> list[Path]:
        """Returns the paths of both inboxes."""
        return [self.root / "inbox 1", self.root / "inbox 2"]

    def arrive(self, inbox: Path, *, half_copied: bool = False) -> Path:
        """Puts photos of a new class, or of one that has arrived before, into an inbox.

        Args:
            inbox: Path of the inbox.
            half_copied: Whether only a part of two of the photos arrives.

        Returns:
            The class folder.
        """
        if self.classes == 0 or self.chance.random() < 0.5:
            self.classes += 1
        number = self.chance.randrange(self.classes) if self.chance.random() < 0.4 else self.classes - 1
        folder = inbox / f"class {number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for place, (path, photo) in enumerate(self._new_photos(folder, number, PHOTOS)):
            content = photo + f"{inbox.name}/{path.name}".encode()  # so that no two files are the same
            if half_copied and place < HALF_COPIED:
                path.write_bytes(photo[: self.chance.randrange(len(photo) * 9 // 10)])
                self.half_copied[path] = content
            else:
                path.write_bytes(content)
                self.arrived[digest_of(path)] += 1
        return folder

    def copy_slowly(self, folder: Path) -> int:
        """Forks a process that copies one more photo to a class folder, part by part.

        From its first part on, the file can be decoded. So only the quiet time shows that it is not whole.

        Returns:
            The id of the process, which fails if the file is moved before it is whole.
        """
        ((path, photo),) = self._new_photos(folder, number=0, count=1)
        parts = [f"{path} {number}\n".encode() for number in range(self.chance.randrange(5, MOST_PARTS))]
        path.write_bytes(photo)
        self.arrived[hashlib.sha256(photo + b"".join(parts)).hexdigest()] += 1
        if process := os.fork():
            return process
        status = 1
        try:
            for part in parts:
                time.sleep(PAUSE)
                with path.open("r+b") as file:  # fails if the file is gone
                    file.seek(0, os.SEEK_END)
                    file.write(part)
            status = 0
        finally:
            os._exit(status)

    def _new_photos(self, folder: Path, number: int, count: int) -> list[tuple[Path, bytes]]:
        """Returns new paths in a class folder, and for each of them a PNG or JPEG of one demo class."""
        sources = sorted(path for group in ("1", "2") for path in (DEMO_DATA / "train" / group).iterdir())
        photos = []
        for source in self.chance.sample(sorted(sources[number % len(sources)].iterdir()), count):
            name = f"{self.names[folder.parent]:05d}"
            self.names[folder.parent] += 1
            if self.chance.random() < 0.5:
                photos.append((folder / f"{name}.png", source.read_bytes()))
            else:
                with Image.open(source) as image, io.BytesIO() as file:
                    image.save(file, "JPEG")
                    photos.append((folder / f"{name}.jpg", file.getvalue()))
        return photos

    def complete_copies(self) -> None:
        """Copies the rest of the half-copied photos, each of which must still be where it arrived."""
        for path, content in self.half_copied.items():
            part = path.read_bytes()
            assert content.startswith(part), f"{path} was changed"
            path.write_bytes(content)
            self.arrived[digest_of(path)] += 1
        self.half_copied.clear()

    def check(self) -> None:
        """Checks that no photo is lost or learnt from twice, whatever was killed and when.

        Clears the kill's leftovers in the home first, as the next change does.
        """
        paths = [path for folder in (*self.inboxes, self.taught) for path in photos_in(folder)]
        moved = [str(path) for path in self.half_copied if path not in paths]
        assert not moved, f"half-copied photos were moved: {moved}"
        found = Counter(digest_of(path) for path in paths if path not in self.half_copied)
        assert found == self.arrived, f"{sum(found.values())} photos instead of {sum(self.arrived.values())}"
        with self.home.lock():
            pass
        problems = lwm_edge.audit(self.home).problems
        assert not problems, f"after recovery: {problems}"
        self._check_notes()

    def _check_notes(self) -> None:
        """Checks that the model has learnt from the photos that are taught or that the notes explain."""
        notes = {inbox: InboxFolder(inbox, self.taught).note() for inbox in self.inboxes}
        for noted in list(self.noted):
            if noted.note != notes[noted.inbox] and not noted.question():
                assert not noted.learnt or not noted.left(), "photos were learnt from, but put back"
                self.noted.remove(noted)
        explained = Counter[str]()
        for noted in self.noted:
            explained[noted.note.class_name] += len(noted.left()) if noted.learnt else 0
        surplus = self._learnt_but_not_taught()
        surplus.subtract(explained)
        for inbox, note in notes.items():
            if note and all(noted.note != note for noted in self.noted):
                noted = Noted(inbox, note, surplus[note.class_name] > 0)
                surplus[note.class_name] -= len(noted.left()) if noted.learnt else 0
                self.noted.append(noted)
        assert not any(surplus.values()), (
            f"photos learnt from but not taught, or the reverse: {dict(surplus)}"
        )

    def _learnt_but_not_taught(self) -> Counter[str]:
        """Counts the photos of each class that the model has learnt from, less those in its taught folder."""
        bundle = self.home.open_bundle()
        counts = zip(bundle.manifest.class_names, bundle.arrays(COUNTS)[COUNTS].tolist(), strict=False)
        learnt = Counter({name: int(count) for name, count in counts if name.startswith("class ")})
        learnt.subtract(path.parent.name for path in photos_in(self.taught))
        return learnt

    def answer_questions(self) -> int:
        """Answers as an owner asked whether photos were learnt from; returns the number of questions."""
        answered = 0
        for noted in self.noted:
            question = noted.question()
            if question is None or InboxFolder(noted.inbox, self.taught).note() == noted.note:
                continue
            answered += 1
            for path in noted.left() if noted.learnt else ():
                target = self.taught / noted.note.class_name / f"{noted.inbox.name} {path.name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            question.unlink()
        return answered

    def try_again(self) -> None:
        """Acts as an owner who has photos tried again after too many interruptions."""
        for inbox in self.inboxes:
            folder = InboxFolder(inbox, self.taught)
            for path in folder.class_folders():
                if reason := folder.reason(path):
                    assert "teaching was interrupted; " in reason.reason, reason
                    folder.forget_reason(path)

    def check_taught(self) -> None:
        """Checks that every photo was taught, and that nothing is left in the inboxes."""
        left = [str(path) for inbox in self.inboxes for path in photos_in(inbox)]
        assert not left, f"{len(left)} photos are still waiting: {left}"
        assert not self.noted, f"{len(self.noted)} notes are left"


def photos_in(folder: Path) -> list[Path]:
    """Lists the photos in a folder and its sub-folders."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

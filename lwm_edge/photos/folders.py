"""Reads, checks and splits folders of photos that have one sub-folder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..errors import PhotosError, shortened
from ..records import Progress, ProgressCallback, StepReporter, ignore_progress
from .class_names import (
    class_name_problem,
    fold_class_name,
    normalise_class_name,
    shown_class_name,
)
from .guard import GuardedFile, check_photo_file, ended_by_caller
from .listing import LISTED, ClassFolder, Listing, list_photos, printable_text
from .opening import NeedsReaderError
from .photo_set import Photo, PixelCache
from .preprocessing import Preprocessing


@dataclass(frozen=True)
class PhotoFolder:
    """Holds what a folder of class folders contains.

    Attributes:
        class_names: Names of the sub-folders, sorted, in Unicode form NFC.
        photos: Photos of each class, in the same order.
        skipped: Lines about the files left out, each with its reason.
    """

    class_names: tuple[str, ...]
    photos: tuple[tuple[Photo, ...], ...]
    skipped: tuple[str, ...]


def split_held_back(
    photos: Sequence[Photo], share: float, seed: int
) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """Splits one class's photos by content, whatever the files are called.

    Returns:
        Photos to learn from (at least one), and the held-back ones (at least one, if there are two or more).
    """
    ranked = sorted(photos, key=lambda p: hashlib.sha256(f"{seed} {p.digest}".encode()).digest())
    count = min(max(1, round(len(ranked) * share)), len(ranked) - 1)
    return tuple(ranked[count:]), tuple(ranked[:count])


def read_photo_folder(
    folder: Path,
    preprocessing: Preprocessing,
    cache: PixelCache,
    *,
    min_photos: int,
    known_classes: Sequence[str] = (),
    first_label: int = 0,
    label_of: Callable[[str], int | str] | None = None,
    class_name: str | None = None,
    may_be_named: bool = False,
    limit_bytes: int | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> PhotoFolder:
    """Reads a folder with one sub-folder per class, decoding every photo once.

    A photo that lies in two classes, byte for byte, is left out of both, as one of them is wrong. What is
    left out is in the notes of the last report of progress.

    Args:
        folder: Path of the folder.
        preprocessing: Preprocessing of the model.
        cache: Cache that keeps what was decoded.
        min_photos: Minimum number of usable photos per class.
        known_classes: Classes that the model knows already; a folder of such a class is refused.
        first_label: class_index of the first class found.
        label_of: Function that returns the class_index of a folder's name instead, or says why the folder
            cannot be used.
        class_name: Name of the one class that the whole folder shows; None if its sub-folders are classes.
        may_be_named: Whether the user can give that name.
        limit_bytes: Bytes that may be taken while a photo is read, as `read_photo` explains them.
        on_progress: Function that is called before each file is read, and with what is left out.

    Raises:
        PhotosError: The folder cannot be learnt from; every problem is listed.
        ResourceError: The limit leaves too little to decode even an ordinary photo.
    """
    listing = list_photos(folder, class_name, may_be_named=may_be_named)
    problems = _name_problems([found.name for found in listing.classes], known_classes)
    labels: Sequence[int | str] = range(first_label, first_label + len(listing.classes))
    if label_of:
        labels = [label_of(found.class_name) for found in listing.classes]
        pairs = zip(listing.classes, labels, strict=True)
        problems += [f"{printable_text(found.name)}: {why}" for found, why in pairs if isinstance(why, str)]
    total = sum(len(found.files) for found in listing.classes)
    report = StepReporter("photos", total, on_progress)
    read = partial(cache.read, preprocessing=preprocessing, limit_bytes=limit_bytes)
    reader = _Reader(listing, read, report)
    usable = [
        (found, *reader.read_class(found, label))
        for found, label in zip(listing.classes, labels, strict=True)
        if isinstance(label, int)
    ]
    skipped, classes = reader.of_no_class(), list[tuple[Photo, ...]]()
    for found, read_photos, why_not in usable:
        photos = tuple(photo for photo in read_photos if photo.digest not in reader.contradictions)
        reasons = shortened(why_not, LISTED, "more files")
        if len(photos) < min_photos:
            count = f"{len(photos)} usable photos; at least {min_photos} are needed"
            problems += [f"{printable_text(found.name)}: {count}", *reasons]
        skipped += reasons
        classes.append(photos)
    if problems:
        raise PhotosError(f"{folder} cannot be used", [*problems, *reader.of_no_class()])
    if notes := (*listing.counted_in, *skipped):
        on_progress(Progress(phase="photos", done=total, total=total, notes=notes))
    names = tuple(found.class_name for found in listing.classes)
    return PhotoFolder(names, tuple(classes), tuple(skipped))


def _name_problems(names: Iterable[str], known_classes: Collection[str]) -> list[str]:
    problems = []
    known = {fold_class_name(name): name for name in known_classes}
    shown = {shown_class_name(name): name for name in known_classes}
    seen: dict[str, str] = {}
    for raw in names:
        name, folded = normalise_class_name(raw), fold_class_name(raw)
        if why := class_name_problem(name):
            problems.append(f"{raw!r} cannot be a class name: it {why}")
        if folded in known:
            problems.append(
                f"{printable_text(raw)}: the model already knows the class {known[folded]}; to teach it "
                "further photos, use lwm-edge add-photos; to teach it again, remove it (lwm-edge "
                f"remove-class {known[folded]!r}) and add it with all its photos"
            )
        elif folded in seen:
            problems.append(f"{raw!r} and {seen[folded]!r} are the same class name; merge the two folders")
        elif twin := shown.get(shown_class_name(raw)):
            problems.append(
                f"{printable_text(raw)} ({raw!a}) looks just like {twin} ({twin!a}), so nobody could tell "
                "them apart; rename the folder"
            )
        seen[folded] = raw
        shown[shown_class_name(raw)] = name
    return problems


@dataclass
class _Reader:
    """Reads the files of one class after the other.

    Attributes:
        listing: Listing of the folder.
        read: Function that decodes a photo.
        report: Reporter of files, which is told of each, and again while one takes long.
        seen: Path and class of the first photo with each digest.
        contradictions: Lines about photos that lie in two classes, by their digest.
        unreadable: Files that a library is missing for, by their kind and how to get that library.
    """

    listing: Listing
    read: Callable[..., object]
    report: StepReporter
    seen: dict[str, tuple[Path, ClassFolder]] = field(default_factory=dict)
    contradictions: dict[str, str] = field(default_factory=dict)
    unreadable: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def read_class(self, found: ClassFolder, label: int) -> tuple[list[Photo], list[str]]:
        """Reads a class's files; returns its photos, and lines about those that are left out."""
        photos, reasons = [], list(found.problems)
        for path in found.files:
            self.report()
            try:
                check_photo_file(path)  # first, because a link that leads to itself cannot be resolved
                if not self.listing.holds(path, found):
                    raise PhotosError("is a link that leads out of the folder")
                self.read(path, on_wait=self.report.again)
                digest = _file_digest(path, self.report.again)
                self._require_new(digest, path, found)
            except NeedsReaderError as error:
                self.unreadable.setdefault((error.kind, error.how), []).append(self.listing.shown(path))
                continue
            except PhotosError as error:
                reasons.append(f"{self.listing.shown(path)} {error.message}")
                continue
            if digest not in self.contradictions:
                photos.append(Photo(path, label, digest))
        return photos, reasons

    def of_no_class(self) -> list[str]:
        """Returns lines about what is left out for a reason that is not one class's."""
        contradictions = shortened(list(self.contradictions.values()), LISTED, "more such photos")
        hints = [
            f"{len(files)} {kind} photos, such as {files[0]}, take another library to read: {how}"
            for (kind, how), files in self.unreadable.items()
        ]
        return [*hints, *self.listing.beside, *contradictions]

    def _require_new(self, digest: str, path: Path, found: ClassFolder) -> None:
        """Refuses a photo that the class has already, and notes one that another class has."""
        first, of = self.seen.setdefault(digest, (path, found))
        if of is not found:
            self.contradictions.setdefault(
                digest,
                f"{self.listing.shown(first)} and {self.listing.shown(path)} are the same photo in two "
                "classes, so it is left out of both; keep it in the one that it shows",
            )
        elif first != path:
            raise PhotosError(f"is a duplicate of {self.listing.shown(first)}")


def _file_digest(path: Path, on_wait: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    try:
        with ended_by_caller(), GuardedFile(path, on_wait) as file:
            file.expect_pixels()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise PhotosError(f"cannot be read ({error.strerror})") from None
    return digest.hexdigest()

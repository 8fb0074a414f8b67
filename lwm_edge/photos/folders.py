"""Reads, checks and splits folders of photos that have one sub-folder per class."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import PhotosError, shortened
from ..records import Progress, ProgressCallback, StepReporter, ignore_progress
from .class_names import (
    class_name_problem,
    fold_class_name,
    normalise_class_name,
    shown_class_name,
)
from .guard import GuardedFile, check_photo_file, ended_by_caller, wait_on
from .listing import LISTED, ClassFolder, Listing, list_one_level, list_photos, printable_text
from .opening import NeedsReaderError
from .photo_set import Photo, PixelCache
from .preprocessing import Preprocessing
from .reading import read_photo
from .side_by_side import read_side_by_side, reading_threads


class Checked(NamedTuple):
    """Says what became of a file.

    Attributes:
        digest: Digest of a photo that can be used (SHA-256); empty for any other file.
        problem: What is wrong with the file; empty if nothing is.
        takes: Kind of a photo that needs a missing library, and how to get the library; None for any other.
    """

    digest: str = ""
    problem: str = ""
    takes: tuple[str, str] | None = None


class MapsFiles(Protocol):
    """Applies a function to each of some files, as the built-in `map` does."""

    def __call__(
        self, check: Callable[[tuple[Path, ClassFolder]], Checked], files: list[tuple[Path, ClassFolder]], /
    ) -> Iterable[Checked]:
        """Returns the results in the order of the files."""


@dataclass(frozen=True)
class PhotoFolder:
    """Holds what a folder of class folders contains.

    Attributes:
        class_names: Names of the sub-folders, sorted, in Unicode form NFC.
        photos: Photos of each class, in the same order.
        skipped: Lines about the files that were left out, each with its reason.
        left_out: Names of the sub-folders that were not wanted.
    """

    class_names: tuple[str, ...]
    photos: tuple[tuple[Photo, ...], ...]
    skipped: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def split_held_back(
    photos: Sequence[Photo], share: float, seed: int
) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """Splits one class's photos by content, whatever the files are called.

    Args:
        photos: Photos of the class, at least one.
        share: Share of the photos to hold back, from 0 to 1.
        seed: Seed that decides which ones.

    Returns:
        Photos to learn from (at least one) and those held back (at least one, if there are two photos).
    """
    ranked = sorted(photos, key=lambda p: hashlib.sha256(f"{seed} {p.digest}".encode()).digest())
    count = min(max(1, round(len(ranked) * share)), len(ranked) - 1)
    return tuple(ranked[count:]), tuple(ranked[:count])


def advice_on_known_class(name: str, *, shipped: bool = False, may_grow: bool = True) -> str:
    """Says what can be done with photos of a class that the model already knows.

    Args:
        name: Name of the class.
        shipped: Whether the vendor shipped the class.
        may_grow: Whether it may be taught further photos.
    """
    further = (
        "to teach it further photos, use lwm-edge add-photos"
        if may_grow
        else "the vendor shipped it, and does not permit more photos of it"
    )
    command = f"lwm-edge remove-class {shlex.quote(name)}{' --shipped' if shipped else ''}"
    return f"{further}; to teach it again, remove it ({command}) and add it with all its photos"


def read_photo_folder(
    folder: Path,
    preprocessing: Preprocessing,
    cache: PixelCache,
    *,
    min_photos: int,
    known_classes: Sequence[str] = (),
    if_known: Callable[[str], str] = advice_on_known_class,
    first_label: int = 0,
    label_of: Callable[[str], int | str] | None = None,
    wanted: Callable[[str], bool] = lambda name: True,
    class_name: str | None = None,
    may_be_named: bool = False,
    limit_bytes: int | None = None,
    on_progress: ProgressCallback = ignore_progress,
    map_files: MapsFiles | None = None,
) -> PhotoFolder:
    """Reads a folder with one sub-folder per class, decoding every photo once.

    A photo that lies in two classes, byte for byte, is left out of both, as one of the two must be wrong. The
    notes of the last progress report say what is left out.

    Args:
        folder: Path of the folder.
        preprocessing: Preprocessing of the model.
        cache: Cache that keeps the decoded photos.
        min_photos: Smallest number of usable photos that a class must have.
        known_classes: Classes that the model already knows; a folder of such a class is refused.
        if_known: Function that says what can be done instead with the photos of such a class.
        first_label: class_index of the first class found; the others follow in order.
        label_of: Function that overrides `first_label`: given a folder's name, it returns the class_index, or
            says why the folder cannot be used.
        wanted: Function that tells from its name whether a folder is read at all; the others are left out.
        class_name: Name of the one class that the whole folder shows; None if its sub-folders are classes.
        may_be_named: Whether the user could have given that name; if so, an error says how.
        limit_bytes: Limit on memory while a photo is read, as `read_photo` explains it.
        on_progress: Function that is called before each file is read, and at the end with what is left out.
        map_files: Function that has every file checked, by several processes together; None checks them in
            this process, in as many threads as processors and memory allow.

    Raises:
        PhotosError: The folder cannot be learnt from; every problem is listed.
        ResourceError: The limit leaves too little to decode even an ordinary photo.
    """
    listing = list_photos(folder, class_name, may_be_named=may_be_named)
    unwanted = [found for found in listing.classes if not wanted(found.class_name)]
    listing = replace(listing, classes=tuple(found for found in listing.classes if found not in unwanted))
    problems = _name_problems([found.name for found in listing.classes], known_classes, if_known)
    labels = _label(listing.classes, first_label, label_of, problems)
    total = sum(len(found.files) for found in listing.classes)
    report = StepReporter("photos", total, on_progress)
    read = partial(cache.read, preprocessing=preprocessing, limit_bytes=limit_bytes)

    def check(file: tuple[Path, ClassFolder], on_wait: Callable[[], None]) -> Checked:
        """Checks one file; it is called in any thread."""
        return _check(*file, listing, read, on_wait)

    def check_here(file: tuple[Path, ClassFolder]) -> Checked:
        """Checks one file in this thread, and reports progress."""
        report()
        return check(file, report.again)

    labelled = [
        (found, label) for found, label in zip(listing.classes, labels, strict=True) if label is not None
    ]
    files = [(path, found) for found, _ in labelled for path in found.files]
    if map_files:
        checked = map_files(check_here, files)
    else:
        checked = list(read_side_by_side(check, files, reading_threads(limit_bytes), report))
    reader = _Reader(listing, iter(checked))
    usable = [(found, *reader.read_class(found, label)) for found, label in labelled]
    skipped, classes = reader.general_notes(), list[tuple[Photo, ...]]()
    for found, read_photos, why_not in usable:
        photos = tuple(photo for photo in read_photos if photo.digest not in reader.contradictions)
        reasons = shortened(why_not, LISTED, "more files")
        if len(photos) < min_photos:
            photos_found = "1 usable photo" if len(photos) == 1 else f"{len(photos)} usable photos"
            count = f"{photos_found}; at least {min_photos} are needed"
            problems += [f"{printable_text(found.name)}: {count}", *reasons]
        skipped += reasons
        classes.append(photos)
    if problems:
        raise PhotosError(f"{folder} cannot be used", [*problems, *reader.general_notes()])
    if notes := (*listing.counted_in, *skipped):
        on_progress(Progress(phase="photos", done=total, total=total, notes=notes))
    names = tuple(found.class_name for found in listing.classes)
    left_out = tuple(printable_text(found.class_name) for found in unwanted)
    return PhotoFolder(names, tuple(classes), tuple(skipped), left_out)


def usable_photos(
    folder: Path, preprocessing: Preprocessing, limit_bytes: int
) -> tuple[tuple[Photo, ...], tuple[str, ...]]:
    """Decodes every photo of one class folder once, and keeps none of the pixels.

    Args:
        folder: Path of the folder.
        preprocessing: Preprocessing of the model.
        limit_bytes: Limit on memory while a photo is read, as `read_photo` explains it.

    Returns:
        The photos that can be learnt from, and a line about each file that cannot, with the reason.

    Raises:
        ResourceError: The limit leaves too little to decode even an ordinary photo.
    """
    found = list_one_level(folder)
    listing = Listing(folder.parent, False, (found,), (), ())
    read = partial(read_photo, preprocessing=preprocessing, limit_bytes=limit_bytes)
    reader = _Reader(listing, (_check(path, found, listing, read) for path in found.files))
    photos, reasons = reader.read_class(found, 0)
    return tuple(photos), (*reasons, *reader.general_notes())


def _label(
    classes: Sequence[ClassFolder],
    first_label: int,
    label_of: Callable[[str], int | str] | None,
    problems: list[str],
) -> list[int | None]:
    """Returns the class_index of each class; for one that cannot be used, returns None and adds a problem."""
    if label_of is None:
        return [first_label + number for number in range(len(classes))]
    labels: list[int | None] = []
    for found in classes:
        label = label_of(found.class_name)
        if isinstance(label, str):
            problems.append(f"{printable_text(found.name)}: {label}")
        labels.append(label if isinstance(label, int) else None)
    return labels


def _name_problems(
    names: Iterable[str], known_classes: Collection[str], if_known: Callable[[str], str]
) -> list[str]:
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
                f"{printable_text(raw)}: the model already knows the class {known[folded]}; "
                f"{if_known(known[folded])}"
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
    """Sorts out what was found about the files, one class after another.

    Attributes:
        listing: Listing of the folder.
        checked: What became of each file, in the order of the listing.
        seen: Path and class of the first photo with each digest.
        contradictions: Lines about photos that lie in two classes, by their digest.
        unreadable: Files that need a missing library, by their kind and how to get the library.
    """

    listing: Listing
    checked: Iterator[Checked]
    seen: dict[str, tuple[Path, ClassFolder]] = field(default_factory=dict)
    contradictions: dict[str, str] = field(default_factory=dict)
    unreadable: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def read_class(self, found: ClassFolder, label: int) -> tuple[list[Photo], list[str]]:
        """Returns a class's photos, and lines about those of its files that are left out."""
        photos, reasons = [], list(found.problems)
        for path in found.files:
            digest, problem, takes = next(self.checked)
            if takes:
                self.unreadable.setdefault(takes, []).append(self.listing.shown(path))
            elif problem := problem or self._known(digest, path, found):
                reasons.append(f"{self.listing.shown(path)} {problem}")
            elif digest not in self.contradictions:
                photos.append(Photo(path, label, digest))
        return photos, reasons

    def general_notes(self) -> list[str]:
        """Returns lines about what is left out for a reason that does not concern one class alone."""
        contradictions = shortened(list(self.contradictions.values()), LISTED, "more such photos")
        hints = [
            (
                f"1 {kind} photo, {files[0]}, needs another library to be read: {how}"
                if len(files) == 1
                else f"{len(files)} {kind} photos, such as {files[0]}, need another library to be read: {how}"
            )
            for (kind, how), files in self.unreadable.items()
        ]
        return [*hints, *self.listing.beside, *contradictions]

    def _known(self, digest: str, path: Path, found: ClassFolder) -> str:
        """Says that the class already has a photo, or notes that another class has it."""
        first, of = self.seen.setdefault(digest, (path, found))
        if of is not found:
            self.contradictions.setdefault(
                digest,
                f"{self.listing.shown(first)} and {self.listing.shown(path)} are the same photo in two "
                "classes, so it is left out of both; keep it only in the class that it shows",
            )
        elif first != path:
            return f"is a duplicate of {self.listing.shown(first)}"
        return ""


def _check(
    path: Path,
    found: ClassFolder,
    listing: Listing,
    read: Callable[..., object],
    on_wait: Callable[[], None] = wait_on,
) -> Checked:
    """Reads a file to see whether it is a photo that can be used.

    Args:
        path: Path of the file.
        found: Class folder that the file is in.
        listing: Listing of the whole folder.
        read: Function that decodes a photo.
        on_wait: Function that is called a few times a second; what it raises ends the reading.
    """
    try:
        check_photo_file(path)  # first, because a link that leads to itself cannot be resolved
        if not listing.holds(path, found):
            raise PhotosError("is a link that leads out of the folder")
        read(path, on_wait=on_wait)
        return Checked(digest=file_digest(path, on_wait))
    except NeedsReaderError as error:
        return Checked(takes=(error.kind, error.how))
    except PhotosError as error:
        return Checked(problem=error.message)


def file_digest(path: Path, on_wait: Callable[[], None] = wait_on) -> str:
    """Returns the SHA-256 of a photo's file.

    Args:
        path: Path of the photo.
        on_wait: Function that is called a few times a second. What it raises is passed on unchanged.

    Raises:
        PhotosError: The file cannot be read, or is too costly to read.
    """
    digest = hashlib.sha256()
    try:
        with ended_by_caller(), GuardedFile(path, on_wait) as file:
            file.expect_pixels()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise PhotosError(f"cannot be read ({error.strerror})") from None
    return digest.hexdigest()

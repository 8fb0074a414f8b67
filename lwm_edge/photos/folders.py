"""Reads a folder of photos that has one sub-folder per class, or that shows a single class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..errors import PhotosError
from ..records import Progress, ProgressCallback, StepReporter, ignore_progress
from ..wording import counted
from .checking import CheckedFile, FileMapper, FileOfClass, PhotoSorter, check_file
from .class_folders import (
    advice_on_known_class,
    class_indices,
    name_problems,
    refuse_one_level_too_high,
)
from .listing import ClassFolder, Listing, list_one_level, list_photos, printable_text
from .photo_set import Photo, PixelCache
from .preprocessing import Preprocessing
from .reading import read_photo
from .side_by_side import OnWait, read_side_by_side, reading_threads


@dataclass(frozen=True)
class PhotoFolder:
    """Holds the photos of a folder, by class.

    Attributes:
        class_names: Names of the classes, sorted, in Unicode form NFC.
        photos: Photos of each class, in the same order.
        skipped: Lines about the files that were left out, with the reasons.
        left_out: Names of the sub-folders that the caller did not want.
    """

    class_names: tuple[str, ...]
    photos: tuple[tuple[Photo, ...], ...]
    skipped: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def read_photo_folder(
    folder: Path,
    preprocessing: Preprocessing,
    cache: PixelCache,
    *,
    min_photos: int,
    known_classes: Sequence[str] = (),
    advise: Callable[[str, Path], str] = advice_on_known_class,
    first_label: int = 0,
    label_of: Callable[[str], int | str | None] | None = None,
    wanted: Callable[[str], bool] = lambda name: True,
    class_name: str | None = None,
    may_be_named: bool = False,
    is_new: Callable[[str], bool] = lambda name: False,
    limit_bytes: int | None = None,
    on_progress: ProgressCallback = ignore_progress,
    map_files: FileMapper | None = None,
) -> PhotoFolder:
    """Reads a folder with one sub-folder per class, or a folder of one class, decoding every photo once.

    If the same photo, byte for byte, is in two classes, it is left out of both, because one of them must be
    wrong. The last progress report has notes on the files that are left out, and on sub-folders.

    Args:
        folder: Path of the folder.
        preprocessing: Preprocessing of the model.
        cache: Cache that keeps the decoded photos.
        min_photos: Smallest number of usable photos that a class must have.
        known_classes: Classes that the model already knows; a folder of such a class is refused.
        advise: Function that is given the name and the folder of a class that is refused because the model
            already knows it, or does not know it, and says what to do with its photos.
        first_label: class_index of the first class, unless `label_of` is given; the other classes follow.
        label_of: Function that is given a class name, and returns its class_index or what is wrong with it;
            None means that the model does not know the class.
        wanted: Function that is given a class name, and says whether its folder is read at all.
        class_name: Name of the one class that the whole folder shows; None if its sub-folders are classes.
        may_be_named: Whether the user could have given `class_name`; if so, an error may say how.
        is_new: Function that is given a class name, and says whether the class is new; a folder whose
            only class is new is refused if the folder is one level too high.
        limit_bytes: Limit on memory while a photo is read, as `read_photo` explains it.
        on_progress: Function that is called before and while each file is read, and at the end if there are
            notes.
        map_files: Function that makes several processes check the files together; if it is None, this process
            checks them, in as many threads as processors and memory allow.

    Raises:
        PhotosError: The folder cannot be used; the message lists the problems.
        ResourceError: The limit leaves too little to decode even an ordinary photo.
    """
    listing = list_photos(folder, class_name, may_be_named=may_be_named)
    if class_name is None and all(is_new(found.class_name) for found in listing.classes):
        refuse_one_level_too_high(listing, may_be_named)
    listing, left_out = _without_unwanted(listing, wanted)
    problems = name_problems(listing.classes, known_classes, advise)
    indices = class_indices(listing.classes, first_label, label_of, advise, problems)
    total = sum(len(found.files) for found in listing.classes)
    report = StepReporter("photos", total, on_progress)
    read = partial(cache.read, preprocessing=preprocessing, limit_bytes=limit_bytes)
    checked = _check_files(listing, indices, read, report, limit_bytes, map_files)
    sorter = PhotoSorter(listing, iter(checked))
    photos, skipped = _sort_photos(sorter, indices, min_photos, problems)
    if problems:
        raise PhotosError(f"{folder} cannot be used", [*problems, *sorter.general_notes()])
    if notes := (*listing.sub_folder_notes, *skipped):
        on_progress(Progress(phase="photos", done=total, total=total, notes=notes))
    return PhotoFolder(tuple(found.class_name for found in listing.classes), photos, skipped, left_out)


def _without_unwanted(listing: Listing, wanted: Callable[[str], bool]) -> tuple[Listing, tuple[str, ...]]:
    """Returns a listing without the classes that are not wanted, and the names of those left out."""
    kept = tuple(found for found in listing.classes if wanted(found.class_name))
    left_out = tuple(printable_text(found.class_name) for found in listing.classes if found not in kept)
    return replace(listing, classes=kept), left_out


def _check_files(
    listing: Listing,
    classes: Iterable[ClassFolder],
    read: Callable[..., object],
    report: StepReporter,
    limit_bytes: int | None,
    map_files: FileMapper | None,
) -> Iterable[CheckedFile]:
    """Checks all files of some classes, and returns the results in the order of the files."""
    files = [(path, found) for found in classes for path in found.files]

    def check(file: FileOfClass, on_wait: OnWait) -> CheckedFile:
        """Checks one file, in whichever thread this is."""
        return check_file(*file, listing, read, on_wait)

    def check_here(file: FileOfClass) -> CheckedFile:
        """Checks one file in the caller's thread, where progress may be reported."""
        report()
        return check(file, report.again)

    if map_files:
        return map_files(check_here, files)
    return list(read_side_by_side(check, files, reading_threads(limit_bytes), report))


def _sort_photos(
    sorter: PhotoSorter, indices: dict[ClassFolder, int], min_photos: int, problems: list[str]
) -> tuple[tuple[tuple[Photo, ...], ...], tuple[str, ...]]:
    """Returns the photos of each class, and lines about files left out.

    Each class with too few photos adds lines to `problems`.
    """
    sorted_classes = [(found, *sorter.sort_class(found, label)) for found, label in indices.items()]
    skipped, classes = sorter.general_notes(), list[tuple[Photo, ...]]()
    for found, all_photos, reasons in sorted_classes:
        photos = tuple(photo for photo in all_photos if photo.digest not in sorter.contradictions)
        if len(photos) < min_photos:
            photos_found = counted(len(photos), "usable photo", "usable photos")
            count = f"{photos_found}; at least {counted(min_photos, 'is', 'are')} needed"
            problems += [f"{printable_text(found.name)}: {count}", *reasons]
        skipped += reasons
        classes.append(photos)
    return tuple(classes), tuple(skipped)


def usable_photos(
    folder: Path, preprocessing: Preprocessing, limit_bytes: int
) -> tuple[tuple[Photo, ...], tuple[str, ...]]:
    """Decodes every photo of one class folder once, and keeps none of the pixels.

    Args:
        folder: Path of the folder.
        preprocessing: Preprocessing of the model.
        limit_bytes: Limit on memory while a photo is read, as `read_photo` explains it.

    Returns:
        The photos that can be learnt from, and lines about the other files, with the reasons.

    Raises:
        ResourceError: The limit leaves too little to decode even an ordinary photo.
    """
    found = list_one_level(folder)
    listing = Listing(folder.parent, False, (found,), (), ())
    read = partial(read_photo, preprocessing=preprocessing, limit_bytes=limit_bytes)
    sorter = PhotoSorter(listing, (check_file(path, found, listing, read) for path in found.files))
    photos, reasons = sorter.sort_class(found, 0)
    return tuple(photos), (*reasons, *sorter.general_notes())

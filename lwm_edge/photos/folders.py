"""Reads, checks and splits folders of photos that have one sub-folder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import PhotosError, shortened
from ..records import ProgressCallback, StepReporter, ignore_progress, utf8_name
from .class_names import (
    class_name_of,
    class_name_problem,
    fold_class_name,
    normalise_class_name,
    shown_class_name,
)
from .guard import GuardedFile, check_photo_file, ended_by_caller
from .photo_set import Photo, PixelCache
from .preprocessing import Preprocessing

_LISTED_FILES = 20  # listed per class before the rest is only counted


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
    limit_bytes: int | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> PhotoFolder:
    """Reads a folder with one sub-folder per class, decoding every photo once.

    Args:
        folder: Path of the folder.
        preprocessing: Preprocessing of the model.
        cache: Cache that keeps what was decoded.
        min_photos: Minimum number of usable photos per class.
        known_classes: Classes that the model knows already; a folder of such a class is refused.
        first_label: class_index of the first class found.
        label_of: Function that returns the class_index of a folder's name instead, or says why the folder
            cannot be used.
        limit_bytes: Bytes that may be taken while a photo is read, as `read_photo` explains them.
        on_progress: Function that is called before each file is read.

    Raises:
        PhotosError: The folder cannot be learnt from; every problem is listed.
        ResourceError: The limit leaves too little to decode even an ordinary photo.
    """
    read = partial(cache.read, preprocessing=preprocessing, limit_bytes=limit_bytes)
    folders = class_folders(folder)
    problems = _name_problems([utf8_name(path.name) for path in folders], known_classes)
    labels: Sequence[int | str] = range(first_label, first_label + len(folders))
    if label_of:
        labels = [label_of(class_name_of(path)) for path in folders]
        pairs = zip(folders, labels, strict=True)
        problems += [f"{_printable(path.name)}: {why}" for path, why in pairs if isinstance(why, str)]
    skipped: list[str] = []
    classes: list[tuple[Photo, ...]] = []
    seen: dict[str, Path] = {}
    files = [_list_files(path) for path in folders]
    report = StepReporter("photos", sum(len(paths) for paths, _ in files), on_progress)
    for label, path, (paths, reasons) in zip(labels, folders, files, strict=True):
        if isinstance(label, str):
            continue
        photos = _read_class(path, paths, label, read, seen, reasons, report)
        reasons = shortened(reasons, _LISTED_FILES, "more files")
        if len(photos) < min_photos:
            usable = f"{len(photos)} usable photos; at least {min_photos} are needed"
            problems += [f"{_printable(path.name)}: {usable}", *reasons]
        skipped += reasons
        classes.append(photos)
    if problems:
        raise PhotosError(f"{folder} cannot be used", problems)
    return PhotoFolder(tuple(map(class_name_of, folders)), tuple(classes), tuple(skipped))


def class_folders(folder: Path) -> list[Path]:
    """Lists the class folders in a folder, sorted by normalised name, without hidden ones.

    Raises:
        PhotosError: There is no such folder, or it has no sub-folders.
    """
    try:
        folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except FileNotFoundError:
        raise PhotosError(f"{folder} does not exist; give a folder with one sub-folder per class") from None
    except NotADirectoryError:
        raise PhotosError(f"{folder} is not a folder; give a folder with one sub-folder per class") from None
    except PermissionError:
        raise PhotosError(f"{folder} may not be read; check its permissions") from None
    except OSError as error:
        raise PhotosError(f"{folder} cannot be read ({error.strerror}); check the path") from None
    if not folders:
        raise PhotosError(f"{folder} has no sub-folders; put the photos into one sub-folder per class")
    return sorted(folders, key=class_name_of)


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
                f"{_printable(raw)}: the model already knows the class {known[folded]}; to teach it further "
                f"photos, use lwm-edge add-photos; to teach it again, remove it (lwm-edge remove-class "
                f"{known[folded]!r}) and add it with all its photos"
            )
        elif folded in seen:
            problems.append(f"{raw!r} and {seen[folded]!r} are the same class name; merge the two folders")
        elif twin := shown.get(shown_class_name(raw)):
            problems.append(
                f"{_printable(raw)} ({raw!a}) looks just like {twin} ({twin!a}), so nobody could tell "
                "them apart; rename the folder"
            )
        seen[folded] = raw
        shown[shown_class_name(raw)] = name
    return problems


def _list_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Lists a class's files; if the folder cannot be read, none and the reason."""
    try:
        return photo_files(folder), []
    except OSError as error:
        return [], [f"{_printable(folder.name)} cannot be read ({error.strerror})"]


def _read_class(
    folder: Path,
    paths: Sequence[Path],
    label: int,
    read: Callable[..., object],
    seen: dict[str, Path],
    reasons: list[str],
    report: StepReporter,
) -> tuple[Photo, ...]:
    """Reads a class's files, and adds to `reasons` why some are left out."""
    photos = []
    for path in paths:
        report()
        shown = _shown(path)
        try:
            check_photo_file(path)  # first, because a link that leads to itself cannot be resolved
            if not path.resolve().is_relative_to(folder.resolve().parent):
                raise PhotosError("is a link that leads out of the folder")
            read(path, on_wait=report.again)
            digest = _file_digest(path, report.again)
        except PhotosError as error:
            reasons.append(f"{shown} {error.message}")
            continue
        if digest in seen:
            reasons.append(f"{shown} is a duplicate of {_shown(seen[digest])}")
            continue
        seen[digest] = path
        photos.append(Photo(path, label, digest))
    return tuple(photos)


def photo_files(folder: Path) -> list[Path]:
    """Lists the files in a class folder, sorted by name, without hidden ones and sub-folders."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())


def _shown(path: Path) -> str:
    return _printable(f"{path.parent.name}/{path.name}")


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


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

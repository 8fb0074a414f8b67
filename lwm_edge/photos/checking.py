"""Checks which files are photos that can be used, and leaves out duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import PhotosError, shortened
from .guard import GuardedFile, check_photo_file, ended_by_caller, wait_on
from .left_out import LeftOut, left_out_lines
from .listing import LISTED, ClassFolder, Listing
from .opening import NeedsReaderError
from .photo_set import Photo

FileOfClass = tuple[Path, ClassFolder]


class CheckedFile(NamedTuple):
    """Says whether a file is a photo that can be used, and if not, why.

    Attributes:
        digest: Digest of a photo that can be used (SHA-256); empty for any other file.
        problem: Reason why the file cannot be used, worded to follow the file's name; empty if there is none,
            or if `missing_reader` is the reason.
        missing_reader: Kind of photo and how to get the library that reads it, if the library is missing.
    """

    digest: str = ""
    problem: str = ""
    missing_reader: tuple[str, str] | None = None


class FileMapper(Protocol):
    """Applies a function to each file, as the built-in `map` does."""

    def __call__(
        self, check: Callable[[FileOfClass], CheckedFile], files: list[FileOfClass], /
    ) -> Iterable[CheckedFile]:
        """Returns the results in the order of the files."""


def check_file(
    path: Path,
    folder: ClassFolder,
    listing: Listing,
    read: Callable[..., object],
    on_wait: Callable[[], None] = wait_on,
) -> CheckedFile:
    """Reads a file to see whether it is a photo that can be used.

    Args:
        path: Path of the file.
        folder: Class folder that the file is in.
        listing: Listing of the whole folder.
        read: Function that decodes a photo.
        on_wait: Function that is called a few times a second; any exception that it raises ends the reading.
    """
    try:
        check_photo_file(path)  # first, because a link that leads to itself cannot be resolved
        if not listing.holds(path, folder):
            raise PhotosError("is a link that leads out of the folder")
        read(path, on_wait=on_wait)
        return CheckedFile(digest=file_digest(path, on_wait))
    except NeedsReaderError as error:
        return CheckedFile(missing_reader=(error.kind, error.how))
    except PhotosError as error:
        return CheckedFile(problem=error.message)


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


@dataclass
class PhotoSorter:
    """Sorts checked files into photos to use and lines about the others, one class after another.

    Attributes:
        listing: Listing of the folder.
        checked: Results of checking the files, in the order of the listing.
        seen: Path and class of the first photo with each digest.
        contradictions: Lines about photos that are in two classes, by their digest.
        unreadable: Files that need a library that is not installed, by kind of photo and way to get it.
    """

    listing: Listing
    checked: Iterator[CheckedFile]
    seen: dict[str, tuple[Path, ClassFolder]] = field(default_factory=dict)
    contradictions: dict[str, str] = field(default_factory=dict)
    unreadable: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def sort_class(self, folder: ClassFolder, label: int) -> tuple[list[Photo], list[str]]:
        """Returns a class's photos, and lines about its files that are left out for reasons within the class.

        A photo that also turns up in a later class is returned here all the same; sorting the later class
        puts the photo into `contradictions`.
        """
        photos, problems, duplicates = [], list[LeftOut](), list[LeftOut]()
        for path in folder.files:
            digest, problem, missing_reader = next(self.checked)
            if missing_reader:
                self.unreadable.setdefault(missing_reader, []).append(self.listing.shown(path))
            elif problem:
                problems.append((path, problem))
            elif problem := self._duplicate_problem(digest, path, folder):
                duplicates.append((path, problem))
            elif digest not in self.contradictions:
                photos.append(Photo(path, label, digest))
        return photos, left_out_lines([*problems, *duplicates], self.listing.shown, folder.problems)

    def general_notes(self) -> list[str]:
        """Returns lines about files left out for a reason that does not concern one class alone."""
        contradictions = shortened(
            list(self.contradictions.values()), LISTED, "more such photo", "more such photos"
        )
        hints = [
            (
                f"1 {kind} photo, {files[0]}, cannot be read without another library: {how}"
                if len(files) == 1
                else f"{len(files)} {kind} photos, such as {files[0]}, cannot be read "
                f"without another library: {how}"
            )
            for (kind, how), files in self.unreadable.items()
        ]
        loose = [(path, "lies beside the class folders, so it has no class") for path in self.listing.beside]
        return [*hints, *left_out_lines(loose, self.listing.shown), *contradictions]

    def _duplicate_problem(self, digest: str, path: Path, folder: ClassFolder) -> str:
        """Returns a problem if the class has the photo already; notes a contradiction if another does."""
        first, first_folder = self.seen.setdefault(digest, (path, folder))
        if first_folder is not folder:
            self.contradictions.setdefault(
                digest,
                f"{self.listing.shown(first)} and {self.listing.shown(path)} are the same photo in two "
                "classes, so it is left out of both; keep it only in the class that it shows",
            )
        elif first != path:
            return f"is a duplicate of {self.listing.shown(first)}"
        return ""

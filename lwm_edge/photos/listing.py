"""Lists what is in a folder of photos: its classes, their files, and the files that belong to no class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..characters import without_joining
from ..errors import PhotosError, shortened
from ..records import utf8_name, utf8_text
from .class_names import class_name_of, normalise_class_name

LISTED = 20
"""Largest number of files that are listed, per class or beside the classes; the rest are only counted."""

_LEFT_BY_MACHINES = {
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "system volume information",
    "$recycle.bin",
    "lost+found",
    "@eadir",
}  # in lower case
_PART_OF_A_DATA_SET = re.compile(
    r"(train|training|val|valid|validation|test|testing)[\W_]*(\d+|set|data|split|images?|imgs?|photos?)?"
)
_ONE_CLASS_EACH = "one sub-folder per class"
NAMED = 5
"""Largest number of files or folders that are named in one sentence."""


@dataclass(frozen=True)
class ClassFolder:
    """Describes the folder of one class, with all folders in it.

    Attributes:
        name: Name of the class as its folder spells it, or as it was given.
        path: Path of the folder.
        files: Files of the class, sorted by path.
        problems: Lines about folders whose files are left out, with the reasons.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    problems: tuple[str, ...]

    @property
    def class_name(self) -> str:
        """Returns the name of the class in Unicode form NFC."""
        return normalise_class_name(self.name)


@dataclass(frozen=True)
class Listing:
    """Describes a folder of class folders.

    Attributes:
        root: Folder to which the paths of photos are relative when they are shown.
        within: Whether a link to a photo must lead into the class's own folder; if not, it may lead anywhere
            in the parent of the class's folder.
        classes: Classes, sorted by name.
        beside: Files that lie beside the class folders and belong to no class.
        sub_folder_notes: Lines about classes whose folders have sub-folders.
    """

    root: Path
    within: bool
    classes: tuple[ClassFolder, ...]
    beside: tuple[Path, ...]
    sub_folder_notes: tuple[str, ...]

    def shown(self, path: Path) -> str:
        """Returns the path of a photo as it is shown to people."""
        return printable_text(path.relative_to(self.root).as_posix())

    def holds(self, photo: Path, folder: ClassFolder) -> bool:
        """Returns whether a photo may be used: it is not a link, or it leads to where `within` allows."""
        allowed = folder.path.resolve()
        return photo.resolve().is_relative_to(allowed if self.within else allowed.parent)


def list_photos(folder: Path, class_name: str | None = None, *, may_be_named: bool = False) -> Listing:
    """Lists a folder with one sub-folder per class, or a folder of one class.

    Sub-folders of a class's folder belong to the class. Hidden files and folders are ignored, and so are
    those that systems leave behind, such as thumbs.db.

    Args:
        folder: Path of the folder.
        class_name: Name of the one class that the whole folder shows; None if its sub-folders are classes.
        may_be_named: Whether the user could have given `class_name`; if so, an error may say how.

    Raises:
        PhotosError: The folder cannot be read, it has no class folders, or it is a data set split into parts.
    """
    folders, loose = _entries(folder)
    if class_name is not None:
        whole = _class_folder(folder, folder.parent, class_name)
        return Listing(folder.parent, True, (whole,), (), tuple(filter(None, [_sub_folders_of(whole)])))
    if not folders:
        raise PhotosError(_without_sub_folders(folder, loose, may_be_named))
    _refuse_parts_of_a_data_set(folder, folders)
    classes = tuple(_class_folder(path, folder, utf8_name(path.name)) for path in folders)
    notes = tuple(filter(None, map(_sub_folders_of, classes)))
    return Listing(folder, False, classes, tuple(loose), notes)


def list_one_level(folder: Path) -> ClassFolder:
    """Lists a class folder whose sub-folders do not count; each that has files is reported as a problem."""
    try:
        entries = _kept_entries(folder)
        problems = [
            f"{printable_text(p.name)} is a folder; move its photos up one level"
            for p in entries
            if p.is_dir() and holds_files(p)
        ]
        return ClassFolder(utf8_name(folder.name), folder, tuple(photo_files(folder)), tuple(problems))
    except OSError as error:
        problem = f"{printable_text(folder.name)} cannot be read ({error.strerror})"
        return ClassFolder(utf8_name(folder.name), folder, (), (problem,))


def files_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Lists the files in a folder and its sub-folders, sorted by path; ignores what `list_photos` ignores.

    Returns:
        The files, and lines about the sub-folders that are left out.
    """
    problems = list[str]()
    return sorted(_files_below(folder, folder, problems)), problems


def holds_files(folder: Path) -> bool:
    """Returns whether a folder or its sub-folders hold files, or cannot be read; see `files_below`."""
    problems: list[str] = []
    return any(True for _ in _files_below(folder, folder, problems)) or bool(problems)


def photo_files(folder: Path) -> list[Path]:
    """Lists the files directly in a folder, sorted by name; ignores what `list_photos` ignores.

    Raises:
        OSError: The folder cannot be read.
    """
    return [path for path in _kept_entries(folder) if not path.is_dir()]


def _kept_entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_ignored(path))


def is_ignored(path: Path) -> bool:
    """Returns whether a file or folder is hidden, or is one that systems leave behind, such as thumbs.db."""
    return path.name.startswith(".") or path.name.casefold() in _LEFT_BY_MACHINES


def printable_text(text: str) -> str:
    r"""Returns a name as people see it: bytes that are not UTF-8 as in `\xff`, other odd names in ASCII."""
    named = utf8_text(text)
    return named if without_joining(named).isprintable() else ascii(text)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Lists the sub-folders and the files directly in a folder; ignores what `list_photos` ignores."""
    folders, files = list[Path](), list[Path]()
    try:
        for path in folder.iterdir():
            if not is_ignored(path):
                (folders if path.is_dir() else files).append(path)
    except FileNotFoundError:
        raise PhotosError(f"{folder} does not exist; give a folder with {_ONE_CLASS_EACH}") from None
    except NotADirectoryError:
        raise PhotosError(f"{folder} is not a folder; give a folder with {_ONE_CLASS_EACH}") from None
    except PermissionError:
        raise PhotosError(f"{folder} cannot be read; check its permissions") from None
    except OSError as error:
        raise PhotosError(f"{folder} cannot be read ({error.strerror}); check the path") from None
    return sorted(folders, key=class_name_of), sorted(files)


def _without_sub_folders(folder: Path, files: list[Path], may_be_named: bool) -> str:
    if not files:
        return f"{folder} has no sub-folders; put the photos into {_ONE_CLASS_EACH}"
    name = ", or pass --name NAME if all of them show one class" if may_be_named else ""
    return f"{folder} has files but no sub-folders; put the photos into {_ONE_CLASS_EACH}{name}"


def _refuse_parts_of_a_data_set(folder: Path, folders: list[Path]) -> None:
    """Refuses a folder whose class folders are one level further down, in train, val and test.

    A class can have such a name too. In that case its folder directly contains photos, or there are folders
    with other names beside it.
    """
    found = [(path, _PART_OF_A_DATA_SET.fullmatch(path.name.casefold())) for path in folders]
    kinds = {path: match[1] for path, match in found if match and _only_folders(path)}
    parts = list(kinds)
    if len(set(kinds.values())) > 1 or parts == folders:  # beside others, train1 and train2 are trains
        names = ", ".join(printable_text(path.name) for path in parts)
        part = min(parts, key=lambda path: not path.name.casefold().startswith("train"))
        raise PhotosError(
            f"{folder} looks like a data set split into parts ({names}), each with its own class folders; "
            f"give one part, such as {part}, or, if that is a class, put its photos directly into its folder"
        )


def _only_folders(folder: Path) -> bool:
    """Returns whether a folder has sub-folders and no files."""
    try:
        kinds = {path.is_dir() for path in folder.iterdir() if not is_ignored(path)}
    except OSError:
        return False
    return kinds == {True}


def _class_folder(path: Path, root: Path, name: str) -> ClassFolder:
    problems: list[str] = []
    files = sorted(_files_below(path, root, problems))
    return ClassFolder(name, path, tuple(files), tuple(problems))


def _files_below(folder: Path, root: Path, problems: list[str]) -> Iterator[Path]:
    """Yields the files below a folder; no link to a folder is followed, as it could lead in circles."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        relative = printable_text(current.relative_to(root).as_posix())
        shown = "the folder" if current == root else relative
        try:
            for path in current.iterdir():
                if is_ignored(path):
                    continue
                if not path.is_dir():
                    yield path
                elif path.is_symlink():
                    link = printable_text(path.relative_to(root).as_posix())
                    problems.append(f"{link} is a link to a folder, which is not followed")
                else:
                    waiting.append(path)
        except OSError as error:
            problems.append(f"{shown} cannot be read ({error.strerror})")


def _sub_folders_of(found: ClassFolder) -> str | None:
    """Says which sub-folders a class includes; returns None if there are none."""
    if not (first := sub_folders(found, found.files)):
        return None
    names = shortened(first, NAMED)
    return f"{printable_text(found.name)} includes the files in its sub-folders ({', '.join(names)})"


def sub_folders(found: ClassFolder, files: Iterable[Path]) -> list[str]:
    """Names the sub-folders of a class's folder that contain some of the given files."""
    first = {path.relative_to(found.path).parts[0] for path in files if path.parent != found.path}
    return [printable_text(name) for name in sorted(first)]

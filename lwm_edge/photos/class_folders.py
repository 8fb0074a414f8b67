"""Checks the names of class folders and where they are, and gives each class its class_index."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..advice import home_option, one_class_command, remove_class_command
from ..errors import PhotosError, shortened
from .class_names import class_name_problem, fold_class_name, normalise_class_name, shown_class_name
from .left_out import has_photo_ending
from .listing import NAMED, ClassFolder, Listing, printable_text, sub_folders


def name_problems(
    classes: Sequence[ClassFolder], known_classes: Collection[str], advise: Callable[[str, Path], str]
) -> list[str]:
    """Says which class folders have names that cannot be used, and why.

    Args:
        classes: Folders of the classes.
        known_classes: Classes that the model already knows.
        advise: Function that is given the name and the folder of a known class, and says what to do with its
            photos.
    """
    problems = []
    known = {fold_class_name(name): name for name in known_classes}
    shown = {shown_class_name(name): name for name in known_classes}
    seen: dict[str, str] = {}
    for raw, path in ((found.name, found.path) for found in classes):
        name, folded = normalise_class_name(raw), fold_class_name(raw)
        if why := class_name_problem(name):
            problems.append(f"{raw!r} cannot be a class name: it {why}; choose another name")
        if folded in known:
            problems.append(
                f"{printable_text(raw)}: the model already knows the class {known[folded]}; "
                f"{advise(known[folded], path)}{_move_it(classes)}"
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


def _move_it(classes: Sequence[ClassFolder]) -> str:
    """Says how to use the other classes in spite of a class that is refused, if there are any others."""
    return "; to use the folders beside it, move this one elsewhere" if len(classes) > 1 else ""


def advice_on_known_class(
    name: str, folder: Path, home: Path | None = None, *, shipped: bool = False, may_grow: bool = True
) -> str:
    """Says what can be done with photos of a class that the model already knows.

    Args:
        name: Name of the class.
        folder: Path of the folder of its photos.
        home: Path of the home; None if there is none.
        shipped: Whether the vendor shipped the class.
        may_grow: Whether the model may learn from more photos of the class.
    """
    more = (
        f"to add more photos of it, run {one_class_command('add-photos', folder, name, home)}"
        if may_grow
        else "the vendor shipped it, and does not permit more photos of it"
    )
    options = [*(["--shipped"] if shipped else []), *([home_option(home)] if home else [])]
    remove = remove_class_command(name, *options)
    return f"{more}; to teach it again, remove it ({remove}) and add it with all its photos"


def class_indices(
    classes: Sequence[ClassFolder],
    first_label: int,
    label_of: Callable[[str], int | str | None] | None,
    advise: Callable[[str, Path], str],
    problems: list[str],
) -> dict[ClassFolder, int]:
    """Returns the class_index of each class that can be used.

    Args:
        classes: Folders of the classes.
        first_label: class_index of the first class, unless `label_of` is given; the other classes follow.
        label_of: Function that is given a class name, and returns its class_index or what is wrong with it;
            None means that the model does not know the class.
        advise: Function that is given the name and the folder of a class that the model does not know, and
            says what to do with its photos.
        problems: List that gets a line about each class that cannot be used.
    """
    if label_of is None:
        return {folder: first_label + number for number, folder in enumerate(classes)}
    indices = {}
    for folder in classes:
        label = label_of(folder.class_name)
        if label is None:
            advice = advise(folder.class_name, folder.path)
            label = f"the model does not know this class; {advice}{_move_it(classes)}"
        if isinstance(label, str):
            problems.append(f"{printable_text(folder.name)}: {label}")
        else:
            indices[folder] = label
    return indices


def refuse_one_level_too_high(listing: Listing, may_be_named: bool) -> None:
    """Refuses a folder, perhaps an unpacked archive, whose one class has photos only in sub-folders.

    Raises:
        PhotosError: The folder is probably one level too high; the message says what to give instead.
    """
    if len(listing.classes) != 1:
        return
    (only,) = listing.classes
    photos = [path for path in only.files if has_photo_ending(path)]
    if not photos or any(path.parent == only.path for path in photos):
        return
    names = shortened(sub_folders(only, photos), NAMED)
    otherwise = f"put their photos directly into {only.path}"
    if may_be_named:
        otherwise = f"pass {only.path} with --name {shlex.quote(only.class_name)}"
    raise PhotosError(
        f"{listing.root} seems to be one level too high: its only folder, {printable_text(only.name)}, "
        f"contains folders of photos ({', '.join(names)}) but no photos of its own; give {only.path}, or, if "
        f"all these folders show one class, {otherwise}"
    )

"""Phrases errors and questions so that an inbox's owner, who may not have run a command, can act on them."""

from __future__ import annotations

from pathlib import Path

from ..advice import home_option, quoted
from ..errors import ConfigError, GateError, LwmEdgeError, shortened
from ..home.home import Home
from ..home.interrupted import interrupted_increment
from ..model.manifest import Manifest
from ..photos.class_names import class_name_of, fold_class_name
from ..photos.listing import LISTED
from ..records import printable
from .inbox_folder import InboxFolder, Note, Reason, reason_file
from .inbox_record import manifest_of


def in_owners_words(error: LwmEdgeError, path: Path, folder: InboxFolder, home: Home) -> LwmEdgeError:
    """Phrases an error that ended the teaching so that the owner of the inbox can act on it.

    Args:
        error: Error that ended the teaching.
        path: Path of the class folder.
        folder: Inbox.
        home: Model home.
    """
    if isinstance(error, GateError):
        name = class_name_in(path, manifest := manifest_of(home))
        is_known = name in manifest.class_names
        command, option = ("add-photos", "--solve-head") if is_known else ("add-classes", "--recipe lda")
        return GateError(
            "the new model is not good enough, so the old one stays: add more or clearer photos to the "
            f"folder, or accept the new model with lwm-edge {command} {quoted(path)} "
            f"--name {quoted(Path(name))} {option} {home_option(home.path)} --force, and then take these "
            "photos away",
            error.problems,
        )
    if isinstance(error, ConfigError):
        left_off = interrupted_increment(home, manifest_of(home).model_digest)
        if left_off:
            file = printable(Path(reason_file(path).name))
            return ConfigError(
                "an inbox teaches nothing while an interrupted increment waits; to continue that increment, "
                f"run: {left_off.resume}; then remove {file}"
            )
    lines = [error.message, *error.problems]
    for inside in (folder.batch / path.name, folder.batch):
        lines = [line.replace(str(inside), printable(path)) for line in lines]
    return type(error)(lines[0], lines[1:])


def question(note: Note) -> Reason:
    """Asks the owner whether the model has learnt from a note's photos; these wait for the answer."""
    names = [printable(photo.name) for photo in note.photos]
    file = printable(Path(reason_file(note.folder).name))
    return Reason(
        reason="teaching was interrupted, and it is not clear whether the model has learnt from these "
        "photos, because the home was changed in the meantime: check with "
        f"lwm-edge info --history {home_option(note.home)}, take away those that it has learnt from, and "
        f"remove {file}",
        problems=tuple(shortened(names, LISTED, "more photo", "more photos")),
        tried=note.tried + 1,
        final=True,
        try_again="take away the photos that the model has learnt from, and remove this file",
        photos=None,
    )


def class_name_in(folder: Path, manifest: Manifest) -> str:
    """Returns the name of a folder's class, spelt as in the model if the model knows the class."""
    name = class_name_of(folder)
    known = {fold_class_name(name): name for name in manifest.class_names}
    return known.get(fold_class_name(name), name)

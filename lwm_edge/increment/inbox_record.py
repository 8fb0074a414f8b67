"""Finds out from a home's record whether its model has learnt from the photos of an inbox."""

from __future__ import annotations

from functools import partial

from pydantic import ValidationError

from .. import inspection
from ..home.home import Generation, Home
from ..model.bundle import open_bundle
from ..model.custody_record import Link
from ..model.manifest import Manifest
from ..photos.class_names import fold_class_name
from .inbox_folder import Note
from .reports import IncrementReport


def manifest_of(home: Home) -> Manifest:
    """Reads the manifest of a home's current model."""
    return home.read(_manifest)


def _manifest(generation: Generation) -> Manifest:
    return open_bundle(generation.bundle).manifest


def latest_receipt(home: Home) -> IncrementReport:
    """Reads the receipt of a home's latest change.

    Raises:
        ValidationError: The receipt is damaged, was rebuilt, or is for another kind of change.
        OSError: The receipt cannot be read.
    """
    return _receipt(home.current())


def _receipt(generation: Generation) -> IncrementReport:
    return IncrementReport.model_validate_json(inspection.read_regular(generation.receipt))


def was_learnt(home: Home, note: Note) -> bool | None:
    """Finds out whether the home's model has learnt from the photos that a note lists.

    The record names the latest changes, but not their photos. The home's receipt has the digest of the
    photos, but only for the latest change.

    Returns:
        Whether it has; None if the record does not say.
    """
    try:
        return home.read(partial(_was_learnt, note=note))
    except OSError:  # the receipt cannot be read
        return None


def _was_learnt(generation: Generation, note: Note) -> bool | None:
    """Answers `was_learnt` from one generation, because another process may commit in the meantime."""
    manifest = _manifest(generation)
    links = manifest.custody.links if manifest.custody else ()
    later = [link for link in links if link.increment > note.increment]
    if manifest.increment_count <= note.increment:
        return False  # nothing has changed since, or the home was replaced
    if len(later) < manifest.increment_count - note.increment:
        return None  # the record does not reach back that far
    may_be_ours = [link.increment for link in later if _teaches(link, note)]
    if not may_be_ours or later[0].parent_digest != note.model_digest:
        return False  # in the second case, the home was replaced
    try:
        learnt = _receipt(generation).photos_digest
    except ValidationError:
        return None
    if learnt == note.photos_digest:
        return True
    was_another_teaching = learnt is not None and may_be_ours == [manifest.increment_count]
    return False if was_another_teaching else None


def _teaches(link: Link, note: Note) -> bool:
    """Returns whether a change is of the note's kind and affected no class but the note's."""
    deed = link.deed
    if deed is None or deed.kind != note.change or deed.more_classes:
        return False
    return [fold_class_name(name) for name in deed.class_names] == [fold_class_name(note.class_name)]

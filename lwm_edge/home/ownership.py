"""Tells which files and folders in a home were made by this program, which never removes any others.

A generation's name is eight digits, but somebody else's folder may be named after a date, so a generation's
content must be ours too. Anything else in a home belongs to somebody else: it is left alone, every report on
a change mentions it, and the audit fails because of it. Other modules remove nothing in a home except their
own staged files; a test checks this.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .. import inspection, storage
from ..errors import HomeError, TrustError
from ..model.tensors import MANIFEST
from ..records import printable

CURRENT, GENERATIONS, LOCK = inspection.CURRENT, inspection.GENERATIONS, "lock"
TRAINING, TRUST = "training.safetensors", "vendor.pub"
BUNDLE, ONNX, LABELS, RECEIPT = "model.lwm", "classifier.onnx", "labels.txt", "receipt.json"
GENERATION_FILES = (BUNDLE, ONNX, LABELS, RECEIPT)
PREVIOUS = "previous.lwm"
"""Name of the bundle that `undo` returns to; generations contain it only if the vendor permits undo."""
CHECKPOINT_HEADER = "header"
"""Name of the tensor by which a file is known to be a checkpoint; the tensor contains a JSON object."""

_CHECKPOINT_KEYS = {"parent_digest", "job", "step"}
_STAGED_BUNDLE = storage.staged_path(Path(BUNDLE)).name
_MAY_BE_IN_A_GENERATION = frozenset(
    name for file in (*GENERATION_FILES, PREVIOUS) for name in (file, storage.staged_path(Path(file)).name)
)
_LAST_NUMBER = 99_999_999
_MAX_LISTED = 5


def generation_folders(home: Path) -> list[Path]:
    """Lists the folders that are named like a generation, oldest first, whatever is in them."""
    folder = home / GENERATIONS
    if not folder.is_dir():
        return []
    return [path for path in inspection.entries(folder) if _is_named_as_a_generation(path)]


def generations_with_bundles(home: Path) -> list[Path]:
    """Lists the generations in which at least the bundle was made by this program, oldest first."""
    return [folder for folder in generation_folders(home) if _holds_our_bundle(folder)]


def next_number(home: Path) -> int:
    """Returns the number of the next generation.

    It is the first one after the current generation (or, if there is none, after the newest) whose name is
    free, or is taken by a leftover of our own.

    Raises:
        HomeError: No number is left.
    """
    current = inspection.generation_named_by(home / CURRENT)
    known = [int(current)] if current else [int(folder.name) for folder in generations_with_bundles(home)]
    number = max(known, default=-1) + 1
    while os.path.lexists(path := home / GENERATIONS / f"{number:08d}") and not _is_ours_by_content(path):
        number += 1  # the name is taken by something that is not ours
    if number > _LAST_NUMBER:
        raise HomeError(f"{home / GENERATIONS} has no free number up to {_LAST_NUMBER}; start a new home")
    return number


def is_generation(folder: Path) -> bool:
    """Returns whether a folder is a generation that this program made.

    Such a folder is not a link. Its name has eight digits, and its number is at most the next generation's.
    It holds nothing but a generation's files and their staged versions. Our bundle is among them, unless the
    folder has only just been made or has almost been removed: then it holds at most a staged bundle.
    """
    return _is_ours_by_content(folder) and int(folder.name) <= next_number(folder.parents[1])


def _is_ours_by_content(folder: Path) -> bool:
    if _holds_our_bundle(folder):
        return True
    return _is_named_as_a_generation(folder) and inspection.holds_only(folder, {_STAGED_BUNDLE})


def _holds_our_bundle(folder: Path) -> bool:
    holds = _is_named_as_a_generation(folder) and inspection.holds_only(folder, _MAY_BE_IN_A_GENERATION)
    return holds and MANIFEST in _tensor_names(folder / BUNDLE)


def _is_named_as_a_generation(folder: Path) -> bool:
    return re.fullmatch(r"[0-9]{8}", folder.name) is not None and inspection.is_real_folder(folder)


def _tensor_names(path: Path) -> set[str]:
    """Returns the names of the tensors in a regular file; none if it is not a safetensors file."""
    if not inspection.is_regular_file(path):
        return set()
    try:
        with safe_open(path, framework="np") as file:
            return set(file.keys())
    except (SafetensorError, OSError):
        return set()


def checkpoint_header(path: Path) -> bytes | None:
    """Reads the JSON that marks a file as a checkpoint; returns None if there is none."""
    if CHECKPOINT_HEADER not in _tensor_names(path):
        return None
    try:
        with safe_open(path, framework="np") as file:
            return bytes(file.get_tensor(CHECKPOINT_HEADER).tobytes())
    except (SafetensorError, OSError):
        return None


def is_checkpoint(path: Path) -> bool:
    """Returns whether a file is a checkpoint that this program wrote, no matter for which model."""
    try:
        header = json.loads(checkpoint_header(path) or b"null")
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and header.keys() >= _CHECKPOINT_KEYS


def remove_generation(folder: Path, *, is_ours: bool = False) -> None:
    """Removes a generation; leaves the folder alone if it contains anything else.

    The bundle goes last, so that if the process is killed, the rest can still be recognised as ours.

    Args:
        folder: Folder of the generation.
        is_ours: Whether the caller knows that the generation is ours, whatever its bundle contains,
            because it was just staged or was the current one.
    """
    if is_generation(folder) or (is_ours and inspection.holds_only(folder, _MAY_BE_IN_A_GENERATION)):
        storage.remove_folder(folder, _MAY_BE_IN_A_GENERATION, last=BUNDLE)


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint; any other file is left alone."""
    if is_checkpoint(path):
        storage.remove_file(path)


def remove_staged(home: Path) -> None:
    """Removes the staged files that an interrupted write left in a home, so that the next write has room.

    Raises:
        HomeError: Something other than a staged link or file has such a name; it is left alone.
    """
    for name in (CURRENT, TRUST, TRAINING):
        staged = storage.staged_path(home / name)
        if name == CURRENT and inspection.generation_named_by(staged):
            storage.remove_link(staged)
        elif name == CURRENT and os.path.lexists(staged):
            raise HomeError(
                f"{staged} is not one of lwm-edge's links, so it is left alone; move it out of the home"
            )
        else:
            storage.remove_file(staged)


def remove_half_made(home: Path, *, keep_key: bool, keep_folder: bool) -> None:
    """Removes what `init` made before it failed; keeps any model, and everything that we did not make.

    Args:
        home: Folder that was to become a home; the caller holds its lock, which is removed too unless a model
            is kept.
        keep_key: Whether the trusted key was there before `init`.
        keep_folder: Whether the folder itself was there before `init`.
    """
    remove_staged(home)
    if not keep_key and _is_our_key(home / TRUST):
        storage.remove_file(home / TRUST)
    storage.remove_folder(home / GENERATIONS, ())
    if not (home / GENERATIONS).exists():
        if keep_folder:
            storage.remove_file(home / LOCK)
        else:
            remove_new_folder(home)


def remove_new_folder(home: Path) -> None:
    """Removes a folder that was just made for a home, unless it contains more than a lock."""
    storage.remove_folder(home, (LOCK,))


def is_home(folder: Path) -> bool:
    """Returns whether a folder is a model home; a damaged home is one too."""
    link = folder / CURRENT
    if not link.is_symlink():
        return False
    name = inspection.generation_named_by(link)
    is_damaged_home = name and (folder / GENERATIONS / name).exists() and _is_our_lock(folder / LOCK)
    return bool(generations_with_bundles(folder) or is_damaged_home)


def require_generations_inside(home: Path) -> None:
    """Refuses a home whose generations are outside it.

    Raises:
        HomeError: `generations` is a link, or is not a folder.
    """
    folder = home / GENERATIONS
    if os.path.lexists(folder) and not inspection.is_real_folder(folder):
        raise HomeError(
            f"{folder} is {inspection.kind_at(folder)}, but must be a folder inside the home, so nothing is "
            "changed; to keep models on another disk, put the whole home there (--home)"
        )


def require_nothing_foreign(home: Path) -> None:
    """Refuses to make a home in a folder that contains more than an interrupted `init` leaves behind.

    Raises:
        HomeError: The folder contains other things; the first few are listed.
    """
    require_generations_inside(home)
    foreign = [*_foreign(home)]
    if (home / CURRENT).is_symlink() and not inspection.generation_named_by(home / CURRENT):
        foreign.insert(0, home / CURRENT)
    if not foreign and not (home / LOCK).exists():  # `init` makes the lock first, so nothing here is ours
        foreign = inspection.entries(home)
    if foreign:
        raise HomeError(
            f"{home} exists and is not a model home; choose a new or empty folder",
            [f"it holds {printable(path.relative_to(home))}" for path in foreign[:_MAX_LISTED]]
            + ([f"and {len(foreign) - _MAX_LISTED} more"] if len(foreign) > _MAX_LISTED else []),
        )


def describe_foreign(home: Path, max_listed: int) -> tuple[str, ...]:
    """Describes what is not known to be ours: one sentence per item, up to a limit, and one for the rest."""
    found = list(_foreign(home))
    more = (f"the same is true of {len(found) - max_listed} more in {printable(home)}",)
    return tuple(map(_why_left_alone, found[:max_listed])) + (more if len(found) > max_listed else ())


def why_unreadable(path: Path) -> str | None:
    """Says why a file cannot be read; returns None if it can, or if it is no file."""
    try:
        if inspection.is_regular_file(path):
            inspection.read_regular(path, 1)
    except OSError as error:  # for whatever reason, such as that it has vanished
        return error.strerror
    return None


def _why_left_alone(path: Path) -> str:
    if why := why_unreadable(path):
        return (
            f"{printable(path)} cannot be read ({why}), so nobody can tell what it is, and it is left alone; "
            "check its permissions and its disk"
        )
    return (
        f"{printable(path)} is {inspection.kind_at(path)} that lwm-edge did not make, so it is left alone; "
        "move it out of the home"
    )


def is_leftover(home: Path, path: Path) -> bool:
    """Returns whether an unexpected path in a home is a leftover of ours, which the next change removes."""
    parents = [path, *path.parents]
    folder = next((parent for parent in parents if parent.parent == home / GENERATIONS), None)
    return is_generation(folder) if folder else path.parent == home and _is_ours(path)


def _foreign(home: Path) -> Iterator[Path]:
    for path in inspection.entries(home):
        if path.name == GENERATIONS and inspection.is_real_folder(path):
            for folder in inspection.entries(path):
                yield from _foreign_in(folder)
        elif not _is_ours(path):
            yield path


def _foreign_in(generation: Path) -> list[Path]:
    """Lists the things in a generation's folder that are not ours, or the folder itself if it is not ours."""
    if not _is_named_as_a_generation(generation):
        return [generation]
    try:
        foreign = [path for path in inspection.entries(generation) if not _may_be_in_a_generation(path)]
    except HomeError:  # its content cannot be listed
        return [generation]
    is_current = generation.name == inspection.generation_named_by(generation.parents[1] / CURRENT)
    return foreign if foreign or is_current or is_generation(generation) else [generation]


def _may_be_in_a_generation(path: Path) -> bool:
    return path.name in _MAY_BE_IN_A_GENERATION and inspection.is_regular_file(path)


def _is_ours(path: Path) -> bool:
    if path.name == CURRENT:  # wherever the link points, `repair` can point it at a model
        return path.is_symlink()
    if path.name == storage.staged_path(Path(CURRENT)).name:
        return inspection.generation_named_by(path) is not None
    if path.name == TRAINING:
        return is_checkpoint(path)
    if path.name == TRUST:
        return _is_our_key(path)
    if path.name == LOCK:
        return _is_our_lock(path)
    names = {storage.staged_path(Path(name)).name for name in (TRUST, TRAINING)}
    return path.name in names and inspection.is_regular_file(path)


def _is_our_lock(path: Path) -> bool:
    return inspection.is_regular_file(path) and path.stat().st_size == 0


def _is_our_key(path: Path) -> bool:
    """Returns whether a file is a public key in the form in which `init` writes it."""
    if not inspection.is_regular_file(path):
        return False
    from ..custody.keys import public_key_pem, read_public_key  # loads cryptography, which predict avoids

    try:
        return inspection.read_regular(path) == public_key_pem(read_public_key(path))
    except (TrustError, OSError):
        return False

"""What in a home this program made: the only things that it ever removes.

A name is not enough, as a folder of eight digits may be somebody's date: what it holds has to show it too.
Whatever else lies in a home is somebody's. It is left alone, named in every report of a change, and fails the
audit. No other module removes anything but the staged file that it has just written; a test looks for that.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .. import storage
from ..custody.keys import public_key_pem, read_public_key
from ..errors import HomeError, TrustError
from ..model.bundle import MANIFEST
from ..records import printable

CURRENT, GENERATIONS, LOCK = "current", "generations", "lock"
TRAINING, TRUST = "training.safetensors", "vendor.pub"
BUNDLE, ONNX, LABELS, RECEIPT = "model.lwm", "classifier.onnx", "labels.txt", "receipt.json"
GENERATION_FILES = (BUNDLE, ONNX, LABELS, RECEIPT)
CHECKPOINT_HEADER = "header"
"""The tensor that every checkpoint holds, and by which it is known: a JSON object."""

_CHECKPOINT_KEYS = {"parent_digest", "job", "step"}
_STAGED_BUNDLE = storage.staged_path(Path(BUNDLE)).name
_MAY_BE_IN_A_GENERATION = frozenset(
    {*GENERATION_FILES, *(storage.staged_path(Path(name)).name for name in GENERATION_FILES)}
)
_LAST_NUMBER = 99_999_999
_LISTED = 5


def generation_named_by(link: Path) -> str | None:
    """Name of the generation that a link points at; None where it is no link, or not one that we made."""
    target = str(link.readlink()) if link.is_symlink() else ""
    return target.partition("/")[2] if re.fullmatch(rf"{GENERATIONS}/[0-9]{{8}}", target) else None


def generation_folders(home: Path) -> list[Path]:
    """The folders that are named as generations are, oldest first, whatever they hold."""
    folder = home / GENERATIONS
    return [path for path in storage.entries(folder) if _is_named_so(path)] if folder.is_dir() else []


def generations_with_bundles(home: Path) -> list[Path]:
    """The generations that this program made as far as their bundle, oldest first."""
    return [folder for folder in generation_folders(home) if _holds_our_bundle(folder)]


def next_number(home: Path) -> int:
    """The number that the next generation gets: behind the current one, or the newest where there is none.

    Raises:
        HomeError: There is none left.
    """
    current = generation_named_by(home / CURRENT)
    known = [int(current)] if current else [int(folder.name) for folder in generations_with_bundles(home)]
    number = max(known, default=-1) + 1
    while os.path.lexists(path := home / GENERATIONS / f"{number:08d}") and not _is_ours_by_content(path):
        number += 1  # it is taken by something of somebody's
    if number > _LAST_NUMBER:
        raise HomeError(f"{home / GENERATIONS} has no number left below {_LAST_NUMBER}; start a new home")
    return number


def is_generation(folder: Path) -> bool:
    """Whether a folder is one that this program made.

    It is no link, is named by eight digits, no later than the next generation would be, and holds nothing but
    a generation's files and their staged names: our bundle among them, or, where it was only begun or is all
    but removed, at most a staged bundle.
    """
    return _is_ours_by_content(folder) and int(folder.name) <= next_number(folder.parents[1])


def _is_ours_by_content(folder: Path) -> bool:
    if _holds_our_bundle(folder):
        return True
    return _is_named_so(folder) and storage.holds_only(folder, {_STAGED_BUNDLE})


def _holds_our_bundle(folder: Path) -> bool:
    holds = _is_named_so(folder) and storage.holds_only(folder, _MAY_BE_IN_A_GENERATION)
    return holds and MANIFEST in _tensor_names(folder / BUNDLE)


def _is_named_so(folder: Path) -> bool:
    return re.fullmatch(r"[0-9]{8}", folder.name) is not None and storage.is_real_folder(folder)


def _tensor_names(path: Path) -> set[str]:
    """Names of the tensors in a regular file; none where it is no safetensors file."""
    if not storage.is_regular_file(path):
        return set()
    try:
        with safe_open(path, framework="np") as file:
            return set(file.keys())
    except (SafetensorError, OSError):
        return set()


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint that this program wrote, of whatever model."""
    if CHECKPOINT_HEADER not in _tensor_names(path):
        return False
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads(file.get_tensor(CHECKPOINT_HEADER).tobytes())
    except (SafetensorError, OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and header.keys() >= _CHECKPOINT_KEYS


def remove_generation(folder: Path, *, was_current: bool = False) -> None:
    """Removes a generation; a folder that holds anything else is left alone.

    The bundle goes last, so that what a kill leaves can still be told from somebody's. The generation that
    was current is ours even if its bundle is damaged or lost.
    """
    if is_generation(folder) or (was_current and storage.holds_only(folder, _MAY_BE_IN_A_GENERATION)):
        storage.remove_folder(folder, _MAY_BE_IN_A_GENERATION, last=BUNDLE)


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint; any other file is left alone."""
    if is_checkpoint(path):
        storage.remove_file(path)


def remove_staged(home: Path) -> None:
    """Removes what an interrupted write left in a home, so that the next one has room.

    Raises:
        HomeError: Something else has such a name; it is left alone.
    """
    for name in (CURRENT, TRUST, TRAINING):
        staged = storage.staged_path(home / name)
        if name == CURRENT and generation_named_by(staged):
            storage.remove_link(staged)
        elif name == CURRENT and os.path.lexists(staged):
            raise HomeError(f"{staged} is none of lwm-edge's links, so it is left alone; move it away")
        else:
            storage.remove_file(staged)


def is_home(folder: Path) -> bool:
    """Whether a folder is a model home, be it a damaged one: it has a link `current` and a model of ours."""
    link = folder / CURRENT
    if not link.is_symlink():
        return False
    name = generation_named_by(link)
    is_damaged_home = name and (folder / GENERATIONS / name).exists() and _is_our_lock(folder / LOCK)
    return bool(generations_with_bundles(folder) or is_damaged_home)


def require_own_generations(home: Path) -> None:
    """Refuses a home whose generations lie elsewhere.

    Raises:
        HomeError: `generations` is a link, or no folder.
    """
    folder = home / GENERATIONS
    if os.path.lexists(folder) and not storage.is_real_folder(folder):
        raise HomeError(
            f"{folder} is {storage.kind_at(folder)}, and must be a folder of the home's own, so nothing is "
            "changed; to keep models on another disk, put the whole home there (--home)"
        )


def require_no_foreign(home: Path) -> None:
    """Refuses to make a home of a folder that holds anything but what an interrupted `init` leaves.

    Raises:
        HomeError: With everything that was found.
    """
    require_own_generations(home)
    foreign = [*_foreign(home)]
    if (home / CURRENT).is_symlink() and not generation_named_by(home / CURRENT):
        foreign.insert(0, home / CURRENT)
    if not foreign and not (home / LOCK).exists():  # the lock comes first: without it nothing here is ours
        foreign = storage.entries(home)
    if foreign:
        raise HomeError(
            f"{home} exists and is not a model home; choose a new or empty folder",
            [f"it holds {printable(path.relative_to(home))}" for path in foreign[:_LISTED]]
            + ([f"and {len(foreign) - _LISTED} more"] if len(foreign) > _LISTED else []),
        )


def left_alone(home: Path, most: int) -> tuple[str, ...]:
    """A sentence for each thing in a home that this program did not make, up to so many."""
    found = list(_foreign(home))
    more = (f"{len(found) - most} more things in {printable(home)} are left alone likewise",)
    return tuple(
        f"{printable(path)} is {storage.kind_at(path)} that lwm-edge did not make, so it is left alone; "
        "move it out of the home"
        for path in found[:most]
    ) + (more if len(found) > most else ())


def is_leftover(home: Path, path: Path) -> bool:
    """Whether something in a home is what an interrupted change left, which the next one removes."""
    parents = [path, *path.parents]
    folder = next((parent for parent in parents if parent.parent == home / GENERATIONS), None)
    return is_generation(folder) if folder else _is_ours(path)


def _foreign(home: Path) -> Iterator[Path]:
    for path in storage.entries(home):
        if path.name == GENERATIONS and storage.is_real_folder(path):
            for folder in storage.entries(path):
                yield from _foreign_in(folder)
        elif not _is_ours(path):
            yield path


def _foreign_in(generation: Path) -> list[Path]:
    """What keeps a folder from being one of ours: something in it, or the folder itself."""
    if not _is_named_so(generation):
        return [generation]
    try:
        strange = [path for path in storage.entries(generation) if not _may_be_in_a_generation(path)]
    except HomeError:  # it cannot be looked into
        return [generation]
    is_current = generation.name == generation_named_by(generation.parents[1] / CURRENT)
    return strange if strange or is_current or is_generation(generation) else [generation]


def _may_be_in_a_generation(path: Path) -> bool:
    return path.name in _MAY_BE_IN_A_GENERATION and storage.is_regular_file(path)


def _is_ours(path: Path) -> bool:
    if path.name == CURRENT:  # whatever it points at, `repair` points it at a model
        return path.is_symlink()
    if path.name == storage.staged_path(Path(CURRENT)).name:
        return generation_named_by(path) is not None
    if path.name == TRAINING:
        return is_checkpoint(path)
    if path.name == TRUST:
        return _is_our_key(path)
    if path.name == LOCK:
        return _is_our_lock(path)
    names = {storage.staged_path(Path(name)).name for name in (TRUST, TRAINING)}
    return path.name in names and storage.is_regular_file(path)


def _is_our_lock(path: Path) -> bool:
    return storage.is_regular_file(path) and path.stat().st_size == 0


def _is_our_key(path: Path) -> bool:
    """Whether a file is a public key as `init` writes it."""
    if not storage.is_regular_file(path):
        return False
    try:
        return path.read_bytes() == public_key_pem(read_public_key(path))
    except (TrustError, OSError):
        return False

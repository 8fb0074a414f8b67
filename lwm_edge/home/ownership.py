"""What in a home this program made: the only things that it ever removes.

Whatever else lies there is somebody's: it is left alone, named in every report of a change, and fails the
audit. No other module of the package removes anything; a test looks for that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .. import storage
from ..errors import HomeError
from ..records import printable

CURRENT, GENERATIONS, LOCK = "current", "generations", "lock"
TRAINING, TRUST = "training.safetensors", "vendor.pub"
BUNDLE, ONNX, LABELS, RECEIPT = "model.lwm", "classifier.onnx", "labels.txt", "receipt.json"
GENERATION_FILES = (BUNDLE, ONNX, LABELS, RECEIPT)
CHECKPOINT_HEADER = "header"
"""The tensor that every checkpoint holds, and by which it is known."""

_MAY_BE_IN_A_GENERATION = frozenset(
    {*GENERATION_FILES, *(storage.staged_path(Path(name)).name for name in GENERATION_FILES)}
)
_LISTED = 5


def generation_named_by(link: Path) -> str | None:
    """Name of the generation that a link points at; None where it is no link, or not one that we made."""
    target = str(link.readlink()) if link.is_symlink() else ""
    return target.partition("/")[2] if re.fullmatch(rf"{GENERATIONS}/[0-9]{{8}}", target) else None


def generation_folders(home: Path) -> list[Path]:
    """The folders that are named as generations are, oldest first, whatever they hold."""
    folder = home / GENERATIONS
    return [path for path in storage.entries(folder) if _is_named_so(path)] if folder.is_dir() else []


def is_generation(folder: Path) -> bool:
    """Whether a folder is one that this program made: eight digits, with nothing else in it than we write."""
    return _is_named_so(folder) and storage.holds_only(folder, _MAY_BE_IN_A_GENERATION)


def _is_named_so(folder: Path) -> bool:
    return re.fullmatch(r"[0-9]{8}", folder.name) is not None and storage.is_real_folder(folder)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint that this program wrote, of whatever model."""
    if not storage.is_regular_file(path):
        return False
    try:
        with safe_open(path, framework="np") as file:
            return CHECKPOINT_HEADER in file.keys()  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def remove_generation(folder: Path) -> None:
    """Removes a generation; a folder that holds anything else is left alone."""
    if is_generation(folder):
        storage.remove_folder(folder, _MAY_BE_IN_A_GENERATION)


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
    """Whether a folder is a model home, be it a damaged one: a link of ours, or beside our generations."""
    link = folder / CURRENT
    return link.is_symlink() and bool(
        generation_named_by(link) or any(map(is_generation, generation_folders(folder)))
    )


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


def left_alone(home: Path, most: int) -> tuple[str, ...]:
    """A sentence for each thing in a home that this program did not make, up to so many."""
    found = list(_foreign(home))
    more = (f"{len(found) - most} more things in {printable(home)} are left alone likewise",)
    return tuple(
        f"{printable(path)} is {storage.kind_at(path)} that lwm-edge did not make, so it is left alone; "
        "move it out of the home"
        for path in found[:most]
    ) + (more if len(found) > most else ())


def require_no_foreign(home: Path) -> None:
    """Refuses to make a home of a folder that holds anything but what an interrupted `init` leaves.

    Raises:
        HomeError: With everything that was found.
    """
    require_own_generations(home)
    foreign = [*_foreign(home)]
    if not foreign and not (home / LOCK).exists():  # the lock comes first: without it nothing here is ours
        foreign = storage.entries(home)
    if foreign:
        raise HomeError(
            f"{home} exists and is no model home; give a new or empty folder",
            [f"it holds {printable(path.relative_to(home))}" for path in foreign[:_LISTED]]
            + ([f"and {len(foreign) - _LISTED} more"] if len(foreign) > _LISTED else []),
        )


def _foreign(home: Path) -> Iterator[Path]:
    for path in storage.entries(home):
        if path.name == GENERATIONS and storage.is_real_folder(path):
            for folder in storage.entries(path):
                yield from _foreign_in(folder) if _is_named_so(folder) else [folder]
        elif not _is_ours(path):
            yield path


def _foreign_in(generation: Path) -> Iterator[Path]:
    for path in storage.entries(generation):
        if path.name not in _MAY_BE_IN_A_GENERATION or not storage.is_regular_file(path):
            yield path


def is_leftover(home: Path, path: Path) -> bool:
    """Whether something in a home is what an interrupted change left, which the next one removes."""
    parents = [path, *path.parents]
    folder = next((parent for parent in parents if parent.parent == home / GENERATIONS), None)
    return is_generation(folder) if folder else _is_ours(path)


def _is_ours(path: Path) -> bool:
    if path.name in (CURRENT, storage.staged_path(Path(CURRENT)).name):
        return generation_named_by(path) is not None
    if path.name == TRAINING:
        return is_checkpoint(path)
    if path.name == LOCK:
        return storage.is_regular_file(path) and path.stat().st_size == 0
    names = {TRUST, *(storage.staged_path(Path(name)).name for name in (TRUST, TRAINING))}
    return path.name in names and storage.is_regular_file(path)

"""Defines a model home: the folder in which a device keeps its one current model.

    HOME/current -> generations/00000007        one symbolic link, switched by one rename
    HOME/generations/00000007/model.lwm         the bundle
                              classifier.onnx   what apps load
                              labels.txt        the class names, one per line, for people
                              receipt.json      the report of the latest change
                              previous.lwm      the bundle before that change, if the vendor permits undo
    HOME/training.safetensors                   where an interrupted increment left off; constant length
    HOME/lock                                   locked by the only writer
    HOME/vendor.pub                             the vendor's public key; absent if the home accepts any base

A program that reads several files resolves the link only once (`Home.current`). A change writes the next
generation, syncs it, switches the link, and then removes the old generation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .. import durability, inspection, locks, storage
from .._disk import missing_features
from ..advice import home_option
from ..errors import HomeError, LwmEdgeError, explains_os_failures
from ..model.bundle import Bundle, open_bundle
from ..records import AnyPath, Progress, ProgressCallback, absolute, ignore_progress
from . import ownership
from .ownership import (
    BUNDLE,
    CURRENT,
    GENERATION_FILES,
    GENERATIONS,
    LABELS,
    LOCK,
    ONNX,
    PREVIOUS,
    RECEIPT,
    TRAINING,
    TRUST,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Generation:
    """Holds one generation of a home: a consistent set of a model's files.

    Attributes:
        path: Path of the folder.
    """

    path: Path

    @property
    def bundle(self) -> Path:
        """Returns the path of the bundle."""
        return self.path / BUNDLE

    @property
    def home(self) -> Path:
        """Returns the path of the home."""
        return self.path.parents[1]

    @property
    def onnx(self) -> Path:
        """Returns the path of the exported classifier."""
        return self.path / ONNX

    def onnx_bytes(self) -> int:
        """Returns the length of the exported classifier in bytes; 0 if it is missing."""
        return self.onnx.stat().st_size if self.onnx.is_file() else 0

    def bytes(self) -> int:
        """Returns the total length of the generation's files, in bytes."""
        return sum(path.stat().st_size for path in self.path.iterdir())

    def is_complete(self) -> bool:
        """Returns whether the bundle, ONNX file, labels and receipt all exist."""
        return all((self.path / name).is_file() for name in GENERATION_FILES)

    @property
    def labels(self) -> Path:
        """Returns the path of the file of class names, one per line."""
        return self.path / LABELS

    @property
    def previous(self) -> Path:
        """Returns the path of the bundle that `undo` returns to."""
        return self.path / PREVIOUS

    @property
    def receipt(self) -> Path:
        """Returns the path of the latest change's receipt."""
        return self.path / RECEIPT


@dataclass(frozen=True)
class Home:
    """Gives access to a model home, which `open_home` opens.

    Attributes:
        path: Path of the folder.
    """

    path: Path

    @explains_os_failures
    def current(self) -> Generation:
        """Resolves the link, and returns the current generation.

        A system that cannot change homes may have a copy of a home without its link. In such a copy, the only
        generation is the current one.

        Raises:
            HomeError: The link is missing, or does not point at a generation.
        """
        name, name_before = self._link_name(), None
        while name != name_before:  # a commit may remove the folder just after the link was read
            if name and (self.path / GENERATIONS / name).is_dir():
                return Generation(self.path / GENERATIONS / name)
            name, name_before = self._link_name(), name
        if missing_features() and len(copied := ownership.generations_with_bundles(self.path)) == 1:
            return Generation(copied[0])
        raise self._no_current()

    def _no_current(self) -> HomeError:
        """Makes the error for a home without a current generation; it says what to do on this system."""
        if ownership.generation_folders(self.path):
            what = f"has models, but {CURRENT} points at none of them"
            change = f"try: lwm-edge repair {home_option(self.path)}"
            copy = "copy the home again, with its links or with its newest model alone"
        else:
            what = f"is not a model home (there is no {CURRENT} model in it)"
            change = f"make one with: lwm-edge init BASE.lwm {home_option(self.path)}"
            copy = "make one on Linux or macOS, and copy it here"
        return HomeError(f"{self.path} {what}; {copy if missing_features() else change}")

    def read(self, reader: Callable[[Generation], T]) -> T:
        """Reads several files of one generation; starts over if a commit removes it in the meantime."""
        while True:
            generation = self.current()
            try:
                return reader(generation)
            except (LwmEdgeError, OSError):
                if self.current() == generation:
                    raise

    def open_bundle(self) -> Bundle:
        """Opens and verifies the current bundle.

        Raises:
            HomeError: There is no home.
            BundleError: The bundle is missing or damaged.
            ResourceError: The bundle does not fit into memory.
        """
        return open_bundle(self.current().bundle)

    @property
    def onnx(self) -> Path:
        """Returns the path that apps load; it goes through the link, so it leads to the current file.

        On a system that cannot change homes, the link may be missing, so this returns the path of the
        file itself.
        """
        return self.current().onnx if missing_features() else self.path / CURRENT / ONNX

    @property
    def training(self) -> Path:
        """Returns the path of the checkpoint of an interrupted increment."""
        return self.path / TRAINING

    @property
    def trust(self) -> Path:
        """Returns the path of the vendor's public key; a home that accepts any base has no such file."""
        return self.path / TRUST

    @contextmanager
    def lock(self, *, wait: bool = False, on_progress: ProgressCallback = ignore_progress) -> Iterator[int]:
        """Makes this process the only writer, and removes what interrupted writers left, except a checkpoint.

        Args:
            wait: Whether to wait for another writer to finish.
            on_progress: Function that is called several times a second while this waits; any exception that
                it raises ends the call.

        Yields:
            The lock's file descriptor: a child process that inherits it holds the lock too.

        Raises:
            BusyError: Another process is the writer, and `wait` is not set.
            HomeError: The home cannot be written to, or its generations are in another folder.
        """
        ownership.require_generations_inside(self.path)
        with self.lock_as_it_is(wait=wait, on_progress=on_progress) as descriptor:
            self._remove_stale()
            try:
                yield descriptor
            except BaseException:
                with suppress(LwmEdgeError):
                    self._remove_stale()
                raise

    @contextmanager
    def lock_as_it_is(
        self, *, wait: bool = False, on_progress: ProgressCallback = ignore_progress
    ) -> Iterator[int]:
        """Does what `lock` does, but removes nothing."""
        busy = Progress(phase="busy", done=0, total=1)
        on_wait = (lambda: on_progress(busy)) if wait else None
        with locks.exclusive_lock(self.path / LOCK, on_wait=on_wait) as descriptor:
            yield descriptor

    def commit(self, write: Callable[[Generation], None], *, same_model: bool = False) -> tuple[str, ...]:
        """Replaces the current generation in one atomic step; the caller must hold `lock`.

        Args:
            write: Function that writes all files into the new generation before the link points at it.
            same_model: Whether the model stays the same; an interrupted increment can then still be resumed.

        Returns:
            Warnings about the new generation, which is now the current one.
        """
        generation = self.stage()
        try:
            write(generation)
            return self.publish(generation, same_model=same_model)
        except BaseException:
            if self._link_name() != generation.path.name:
                with suppress(LwmEdgeError):  # the first failure is the one to report
                    ownership.remove_generation(generation.path, is_ours=True)
            raise

    def stage(self) -> Generation:
        """Makes the folder of the next generation; the caller must hold `lock`."""
        number = ownership.next_number(self.path)
        generation = Generation(self.path / GENERATIONS / f"{number:08d}")
        try:
            storage.make_folder(generation.path)
        except BaseException:
            with suppress(LwmEdgeError):  # the first failure is the one to report
                ownership.remove_generation(generation.path, is_ours=True)
            raise
        return generation

    def publish(self, generation: Generation, *, same_model: bool = False) -> tuple[str, ...]:
        """Makes a complete generation the current one, with a single rename; the caller must hold `lock`.

        Returns:
            Warnings, if the disk did not confirm the rename.
        """
        before = self._current_name()
        warnings = storage.swap_link(self.path / CURRENT, f"{GENERATIONS}/{generation.path.name}")
        with suppress(LwmEdgeError, OSError):  # the change is made; the next writer removes leftovers
            if not same_model:
                ownership.remove_checkpoint(self.training)
            durability.sync_folder(self.path)
            if before:
                ownership.remove_generation(self.path / GENERATIONS / before, is_ours=True)
            self._remove_stale()
        return warnings

    def describe_foreign(self, max_listed: int = 5) -> tuple[str, ...]:
        """Describes each thing in the home that this program did not make, up to `max_listed`."""
        return ownership.describe_foreign(self.path, max_listed)

    def _link_name(self) -> str | None:
        """Returns the name of the folder that the link points at; None if the link is missing or not ours."""
        return inspection.generation_named_by(self.path / CURRENT)

    def _current_name(self) -> str | None:
        """Returns the name of the folder that the link points at; None if there is no such folder."""
        name = self._link_name()
        return name if name and (self.path / GENERATIONS / name).is_dir() else None

    def _remove_stale(self) -> None:
        ownership.remove_staged(self.path)
        current = self._current_name()
        if current is None and os.path.lexists(self.path / CURRENT):
            return  # the link leads to no generation, so it is unclear which one to keep
        folders = ownership.generation_folders(self.path)
        stale = [path for path in folders if path.name != current and ownership.is_generation(path)]
        if current is None:  # the lost link may have pointed at a complete model
            stale = [path for path in stale if not Generation(path).is_complete()]
        if stale:  # a killed writer may have switched the link, but not synced the switch
            durability.sync_folder(self.path)
        # Newest first: a half-made generation counts as ours only as long as an older one exists.
        for path in reversed(stale):
            ownership.remove_generation(path)


def open_home(path: Home | AnyPath) -> Home:
    """Opens a model home; a home that is already open is returned as it is.

    Raises:
        HomeError: The folder is not a model home.
    """
    home = path if isinstance(path, Home) else Home(absolute(path))
    home.current()
    return home


def home_or_bundle(source: Home | AnyPath) -> Home | Path:
    """Opens the model home if the source is one; otherwise, returns the path of a bundle file.

    Raises:
        HomeError: The source is a folder, but not a model home.
    """
    if isinstance(source, Home) or Path(source).is_dir():
        return open_home(source)
    return Path(source)

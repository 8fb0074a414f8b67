"""Arranges the class folders of a data set in the steps of the class-incremental protocol."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import typer

_ALL = slice(0, None)


def class_order(data: Path, seed: int, known: tuple[str, ...]) -> list[str]:
    """Returns the classes of a data set in the order of a seed, in which those that a base knows come first.

    Raises:
        typer.BadParameter: The base knows other classes than the first ones.
    """
    names = sorted(path.name for path in (data / "train").iterdir())
    order = [names[i] for i in np.random.RandomState(seed).permutation(len(names))]
    if set(order[: len(known)]) != set(known):
        raise typer.BadParameter(f"the base does not know the first {len(known)} classes of seed {seed}")
    return order


class Split:
    """Arranges a data set's classes in the order of one seed, with a folder of links or copies for each step.

    Args:
        data: Folder with train/<class>/* and test/<class>/*.
        work: Folder for the steps' folders.
        seed: Seed of the class order: the sorted names, permuted with numpy.random.RandomState(seed).
        base: Number of base classes.
        step: Number of classes per step.
        until: Number of classes to stop at; None takes all.
        photos: Number of training photos per new class; None takes all.
        held_out: Number of training photos of each class that are tested on instead of learnt from, so
            that the test photos are never read. If it is 0, the test photos are used.
        base_photos: Number of training photos per base class; None takes all.
    """

    def __init__(
        self,
        data: Path,
        work: Path,
        seed: int,
        base: int,
        step: int,
        until: int | None,
        photos: int | None,
        held_out: int = 0,
        base_photos: int | None = None,
    ) -> None:
        names = sorted(path.name for path in (data / "train").iterdir())
        order = [names[i] for i in np.random.RandomState(seed).permutation(len(names))][:until]
        self.groups = [order[:base], *(order[i : i + step] for i in range(base, len(order), step))]
        self.data, self.work, self.held_out = data, work, held_out
        self.base_photos, self.photos = base_photos, photos

    def seen(self, group: int) -> list[str]:
        """Lists the classes up to a step, in their order."""
        return [name for names in self.groups[: group + 1] for name in names]

    def train(self, group: int) -> Path:
        """Collects the training photos of one step's classes."""
        photos = self.photos if group else self.base_photos
        end = self.held_out + photos if photos is not None else None
        return self.folder(f"train{group}", "train", self.groups[group], slice(self.held_out, end))

    def all_train(self) -> Path:
        """Collects the training photos of all steps, for joint training."""
        folder = self.work / "train-all"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for group in range(len(self.groups)):
            for path in self.train(group).iterdir():
                (folder / path.name).symlink_to(path.resolve())
        return folder

    def test(self, group: int) -> Path:
        """Collects the photos for testing all classes up to a step."""
        return self._to_test(f"test{group}", self.seen(group))

    def test_new(self, group: int) -> Path:
        """Collects the photos for testing one step's classes alone."""
        return self._to_test(f"test-new{group}", self.groups[group])

    def _to_test(self, name: str, classes: list[str]) -> Path:
        if self.held_out:
            return self.folder(name, "train", classes, slice(0, self.held_out))
        return self.folder(name, "test", classes)

    def folder(self, name: str, split: str, classes: list[str], photos: slice = _ALL) -> Path:
        """Makes a folder with links to some class folders or, with a slice, copies of some photos."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        for class_name in classes:
            source, target = self.data / split / class_name, folder / class_name
            target.parent.mkdir(parents=True, exist_ok=True)
            if photos == _ALL:
                target.symlink_to(source.resolve())
                continue
            target.mkdir()
            for photo in sorted(source.iterdir())[photos]:
                shutil.copy(photo, target)
        return folder

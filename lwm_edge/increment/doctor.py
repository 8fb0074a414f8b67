"""Looks for photos that would do harm: blurred, black, white, tiny, mislabelled, or much the same as another.

Apart from their size, photos are judged as the network sees them. To find mislabelled ones, each photo is
classified by a last layer that is solved from the model's own features without that photo
(`learning.unseen`); all classes of the folder and of the model compete. Nothing is learnt, copied or changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..home.home import Generation, Home, open_home
from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import Features, Labels
from ..learning.running import observe
from ..learning.unseen import judge_unseen
from ..memory import out_of_memory_explained
from ..model.backbone import Backbone
from ..model.bundle import open_bundle
from ..model.manifest import Manifest
from ..photos.class_names import fold_class_name
from ..photos.folders import PhotoFolder, read_photo_folder
from ..photos.photo_set import Photo, PhotoSet, PixelCache
from ..photos.quality import brightness_range, sharpness, short_side
from ..photos.similarity import Hash, hash_of, near_duplicates, why_not_comparable
from ..records import AnyPath, ProgressCallback, StepReporter, absolute, ignore_progress
from ..wording import counted
from .findings import AlikeClasses, CheckReport, Fault, SuspectPhoto
from .judgement import LOOKALIKE_SHARE, judge_new_classes

_IMAGES_AT_ONCE = 4
_PIXEL_CACHE_BYTES = 64 * 2**20
_FEWEST = 5  # photos of a class; with fewer, nobody can tell what is usual for the class
_BLURRED_RATIO = 0.15  # share of the median sharpness of the class
_BLACK, _WHITE = 50.0, 205.0  # black if nothing is brighter, white if nothing is darker
_TINY_RATIO = 0.5  # share of the short side that the network sees
_SURE_MARGIN = 3.0  # difference of two logits; for a class's mean features, its own logit is about 5


@dataclass
class _Measurements:
    """Holds the measurements of all photos.

    Attributes:
        sharpness: Sharpness of each photo.
        faults: Faults of each photo.
        hashes: Perceptual hash of each photo; empty without imagehash.
        like: Path of the photo that each near-duplicate repeats, by the near-duplicate's index.
    """

    sharpness: list[float] = field(default_factory=list)
    faults: list[list[Fault]] = field(default_factory=list)
    hashes: list[Hash] = field(default_factory=list)
    like: dict[int, Path] = field(default_factory=dict)


def check_photos(
    home: Home | AnyPath,
    folder: AnyPath,
    *,
    class_name: str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> CheckReport:
    """Looks for photos that a model should neither learn from nor be measured on; changes nothing.

    Args:
        home: Model home, or the path of its folder.
        folder: Path of a folder with one sub-folder of photos for each class, new or known.
        class_name: Name of the one class that the whole folder shows; None if its sub-folders are classes.
        on_progress: Function that is called at every step; any exception that it raises ends the call.

    Raises:
        HomeError: There is no home.
        BundleError: The home's bundle is damaged.
        PhotosError: The folder cannot be used: for example, a class has no usable photo; every problem is
            listed.
        ExportError: The bundle's graph cannot be run here, or its results differ from those obtained
            where the model was trained (ParityError).
        ResourceError: Memory ran out.
    """
    home, folder = open_home(home), absolute(folder)
    with out_of_memory_explained():
        manifest, backbone, statistics = home.read(_read_model)
        cache = PixelCache(_PIXEL_CACHE_BYTES)
        names = _Names(manifest.class_names)
        found = read_photo_folder(
            folder,
            manifest.preprocessing,
            cache,
            min_photos=1,
            label_of=names.label_of,
            class_name=class_name,
            may_be_named=True,
            is_new=names.is_new,
            on_progress=on_progress,
        )
        photos = PhotoSet([p for group in found.photos for p in group], manifest.preprocessing, cache)
        labels = np.array(photos.labels, dtype=np.int64)
        measured = _measure(photos, on_progress)
        _find_blurred(measured, labels)
        _find_near_duplicates(measured, photos.photos, names.all)
        features = observe(backbone, photos, _IMAGES_AT_ONCE, on_progress).head_inputs
        logits = _unseen_logits(statistics, features, labels, len(names.all), on_progress)
        judged = _enough_photos(labels)
        _find_mislabelled(measured, logits, labels, judged, names.all)
    return CheckReport(
        folder=folder,
        class_photos=_counts(found),
        suspects=tuple(sorted(_suspects(measured, photos, names.all), key=lambda s: -s.weight)),
        alike=tuple(_alike(logits, labels, judged, names.all)),
        skipped=found.skipped,
        notes=tuple(_notes(found, manifest.class_names)),
    )


def _read_model(generation: Generation) -> tuple[Manifest, Backbone, ClassStatistics]:
    """Reads all that is needed of a model; another process may remove its files while photos are checked."""
    model = open_bundle(generation.bundle)
    return model.manifest, Backbone(model), ClassStatistics.from_bundle(model)


class _Names:
    """Gives each class a number: the model's classes keep theirs, and each new name gets the next free one.

    Attributes:
        all: Names of all classes.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.all = list(known)
        self._labels = {fold_class_name(name): label for label, name in enumerate(known)}

    def is_new(self, name: str) -> bool:
        """Returns whether nothing has had this name so far."""
        return fold_class_name(name) not in self._labels

    def label_of(self, name: str) -> int:
        """Returns the number of a class."""
        label = self._labels.setdefault(fold_class_name(name), len(self.all))
        if label == len(self.all):
            self.all.append(name)
        return label


def _counts(found: PhotoFolder) -> dict[str, int]:
    return dict(zip(found.class_names, map(len, found.photos), strict=True))


def _measure(photos: PhotoSet, on_progress: ProgressCallback) -> _Measurements:
    """Measures each photo on its own."""
    measured, resize_size = _Measurements(), photos.preprocessing.resize_size
    compares = not why_not_comparable()
    report = StepReporter("check", len(photos.photos), on_progress)
    for index, photo in enumerate(photos.photos):
        (pixels,) = photos.load([index], report=report)
        measured.sharpness.append(sharpness(pixels))
        measured.faults.append([*_light_faults(*brightness_range(pixels)), *_size_faults(photo, resize_size)])
        if compares:
            measured.hashes.append(hash_of(pixels))
    return measured


def _light_faults(darkest: float, brightest: float) -> Iterator[Fault]:
    if brightest < _BLACK:
        reason = f"is nearly black: its brightness is at most {brightest:.0f} of 255"
        yield Fault(kind="black", reason=reason, weight=1 - brightest / 255)
    elif darkest > _WHITE:
        reason = f"is nearly white: its brightness is at least {darkest:.0f} of 255"
        yield Fault(kind="white", reason=reason, weight=darkest / 255)


def _size_faults(photo: Photo, resize_size: int) -> Iterator[Fault]:
    side = short_side(photo.path, resize_size)
    if side is not None and side < _TINY_RATIO * resize_size:
        pixels = counted(side, "pixel", "pixels")
        reason = f"is tiny: its short side has {pixels}, but the network looks at {resize_size}"
        yield Fault(kind="tiny", reason=reason, weight=1 - side / resize_size)


def _find_blurred(measured: _Measurements, labels: Labels) -> None:
    """Finds photos that are far less sharp than is usual in their class, unless they have a fault already."""
    sharp = np.array(measured.sharpness)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        usual = float(np.median(sharp[of_class]))
        for index in of_class:
            if measured.faults[index] or len(of_class) < _FEWEST:
                continue
            if sharp[index] < _BLURRED_RATIO * usual:
                ratio = sharp[index] / usual
                reason = f"is blurred: it has {100 * ratio:.0f}% of the sharpness that is usual in its class"
                measured.faults[index].append(Fault(kind="blurred", reason=reason, weight=1 - ratio))


def _find_near_duplicates(measured: _Measurements, photos: Sequence[Photo], names: Sequence[str]) -> None:
    """Finds near-duplicates among photos that have no fault yet; the less sharp of two is the suspect."""
    plain = [i for i, faults in enumerate(measured.faults) if not faults]
    plain.sort(key=lambda i: -measured.sharpness[i])
    hashes = [measured.hashes[i] for i in plain] if measured.hashes else []
    for row, first in near_duplicates(hashes).items():
        photo, other = photos[plain[row]], photos[plain[first]]
        is_contradiction = photo.label != other.label
        of = f" of {names[other.label]}: one of the two has the wrong class" if is_contradiction else ""
        reason = f"is nearly the same photo as {other.path.name}{of}"
        weight = 0.9 if is_contradiction else 0.3
        measured.faults[plain[row]].append(Fault(kind="near-duplicate", reason=reason, weight=weight))
        measured.like[plain[row]] = other.path


def _unseen_logits(
    statistics: ClassStatistics,
    features: Features,
    labels: Labels,
    classes: int,
    on_progress: ProgressCallback,
) -> Features:
    """Computes the logits of each photo with a head that is solved without that photo [M, classes]."""
    if (missing := classes - len(statistics.means)) > 0:  # there are more classes than the model has room for
        statistics.means = np.pad(statistics.means, ((0, missing), (0, 0)))
        statistics.counts = np.pad(statistics.counts, (0, missing))
    statistics.learn_more(features, labels)
    solved = statistics.discriminant(classes, features, labels)
    report = StepReporter("evaluate", len(list(solved.folds())), on_progress)
    return judge_unseen(solved, len(statistics.means), report).logits


def _enough_photos(labels: Labels) -> NDArray[np.bool_]:
    counts = np.bincount(labels)
    enough: NDArray[np.bool_] = counts[labels] >= _FEWEST
    return enough


def _find_mislabelled(
    measured: _Measurements, logits: Features, labels: Labels, judged: NDArray[np.bool_], names: Sequence[str]
) -> None:
    """Finds photos whose own class is far less likely than another class."""
    rows = np.arange(len(labels))
    best = logits.argmax(1)
    margins = logits[rows, best] - logits[rows, labels]
    for index in np.flatnonzero(judged & (margins > _SURE_MARGIN)):
        reason = f"looks like {names[best[index]]} rather than {names[labels[index]]}"
        weight = 1 - float(np.exp(-margins[index] / _SURE_MARGIN))
        measured.faults[index].append(Fault(kind="mislabelled", reason=reason, weight=weight))


def _suspects(measured: _Measurements, photos: PhotoSet, names: Sequence[str]) -> Iterator[SuspectPhoto]:
    for index, (photo, faults) in enumerate(zip(photos.photos, measured.faults, strict=True)):
        if faults:
            yield SuspectPhoto(
                photo=photo.path,
                class_name=names[photo.label],
                faults=tuple(sorted(faults, key=lambda fault: -fault.weight)),
                like=measured.like.get(index),
            )


def _alike(
    logits: Features, labels: Labels, judged: NDArray[np.bool_], names: Sequence[str]
) -> list[AlikeClasses]:
    """Lists the classes many of whose photos are mistaken for one other class, the largest share first."""
    here = set(labels.tolist())
    found = judge_new_classes(logits.argmax(1)[judged], labels[judged], names, sorted(set(labels[judged])))
    alike = [
        AlikeClasses(
            class_name=report.class_name,
            other=report.taken_for,
            taken=report.photos_taken,
            photos=report.photos,
            is_known=names.index(report.taken_for) not in here,
        )
        for report in found
        if report.taken_for and report.photos_taken >= max(2, LOOKALIKE_SHARE * report.photos)
    ]
    return sorted(alike, key=lambda pair: -pair.taken / pair.photos)


def _notes(found: PhotoFolder, class_names: Sequence[str]) -> Iterator[str]:
    counts, folded = _counts(found), {fold_class_name(name) for name in class_names}
    known = [name for name in counts if fold_class_name(name) in folded]
    if known and (new := [name for name in counts if name not in known]):
        yield (
            f"the model knows {', '.join(known)}, but not {', '.join(new)}; put known and new classes into "
            "separate folders, for lwm-edge add-photos and lwm-edge add-classes"
        )
    few = [name for name, photos in counts.items() if photos < _FEWEST]
    if few:
        yield (
            "blurred and mislabelled photos were not looked for in classes with fewer than "
            f"{_FEWEST} photos: {', '.join(few)}"
        )
    if why := why_not_comparable():
        yield why

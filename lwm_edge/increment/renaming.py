"""Provides `rename_class`, which renames a known class, or merges two classes into one."""

from __future__ import annotations

import numpy as np

from ..custody.chain import make_deed
from ..errors import ConfigError
from ..home.changes import Edited, change_model
from ..home.home import Generation, Home
from ..home.reports import ChangeReport
from ..learning.class_statistics import ClassStatistics
from ..learning.regrouping import is_solved, merge_classes
from ..learning.unknown import score_tensors
from ..model.bundle import Bundle
from ..model.judged import without_judged
from ..model.manifest import Manifest
from ..model.tensors import BIAS, WEIGHT, forget_what_was_measured
from ..photos.class_names import class_name_problem, fold_class_name, normalise_class_name, shown_class_name
from ..records import AnyPath, ProgressCallback, ignore_progress
from .class_rows import find_class, other_names, without_class, without_row


def rename_class(
    home: Home | AnyPath,
    class_name: str,
    new_name: str,
    *,
    merge: bool = False,
    shipped: bool = False,
    sign_with: AnyPath | None = None,
    on_progress: ProgressCallback = ignore_progress,
    wait: bool = False,
) -> ChangeReport:
    """Renames a class or, with `merge`, merges it into the class that already has the new name.

    Args:
        home: Model home, or the path of its folder.
        class_name: Name of the class.
        new_name: New name or, with `merge`, name of another class of the model.
        merge: Whether to merge both into one class, as if all their photos had shown `new_name`.
        shipped: Whether a class that the vendor shipped may be merged into another one; renaming it does not
            need this.
        sign_with: Path of the device's private key, to sign the change with.
        on_progress: Function that is called before the new model is exported; any exception that it raises
            ends the call.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        ConfigError: There is no such class, the new name cannot be used, or the classes cannot be merged.
        BundleError: The home's bundle is damaged.
        ExportError: The ONNX file cannot be made, or the results of ONNX Runtime on this device differ from
            the network's (ParityError).
        HomeError: There is no home, or it cannot be written to.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the signing key
            cannot be used.
        ResourceError: Memory or disk space ran out.
    """

    def edit(generation: Generation, model: Bundle) -> Edited:
        """Renames the class, or merges it into the other one."""
        row = find_class(model.manifest, class_name)
        if not merge:
            return _renamed(model, row, normalise_class_name(new_name))
        old = model.manifest.class_names[row]
        into = find_class(model.manifest, new_name, f"; to rename {old} instead, leave out --merge")
        _require_mergeable(model.manifest, row, into, shipped=shipped)
        return _merged(model, row, into)

    return change_model(home, edit, sign_with=sign_with, on_progress=on_progress, wait=wait)


def _renamed(model: Bundle, row: int, name: str) -> Edited:
    """Renames a class.

    Raises:
        ConfigError: The class cannot have that name.
    """
    manifest, old = model.manifest, model.manifest.class_names[row]
    names = manifest.class_names
    others = [other for other in names if other != old]
    if name == old:
        raise ConfigError(f"that class is already called {old}")
    if why := class_name_problem(name):
        raise ConfigError(f"{name!r} cannot be a class name: it {why}; choose another name")
    for other in others:
        if fold_class_name(other) == fold_class_name(name):
            raise ConfigError(f"the model already knows the class {other}; to merge the two, pass --merge")
        if shown_class_name(other) == shown_class_name(name):
            raise ConfigError(
                f"{name} ({name!a}) looks just like {other} ({other!a}), so nobody could tell them apart; "
                "choose another name"
            )
    renamed = (*names[:row], name, *names[row + 1 :])
    changed = {"class_names": renamed, "renamed": other_names(manifest.vendor_names, renamed)}
    return Edited(model.arrays(), manifest.model_copy(update=changed), make_deed("rename-class", (old, name)))


def _require_mergeable(manifest: Manifest, row: int, into: int, *, shipped: bool) -> None:
    """Refuses classes that cannot be merged, such as a shipped one if `shipped` is not set.

    Raises:
        ConfigError: The classes cannot be merged.
    """
    names = manifest.class_names
    if row == into:
        raise ConfigError(f"{names[row]} cannot be merged into itself; give the name of another class")
    if row < manifest.shipped_classes and not shipped:
        raise ConfigError(f"{names[row]} was shipped by the vendor; pass --shipped to merge it anyway")
    if into < manifest.shipped_classes and "add-photos" not in manifest.permits:
        raise ConfigError(
            f"{names[into]} was shipped by the vendor, who does not permit more photos of it (add-photos)"
        )


def _merged(model: Bundle, row: int, into: int) -> Edited:
    """Merges a class into another one, and solves the head again.

    Raises:
        ConfigError: The head was trained, not computed from the statistics.
    """
    manifest, arrays = model.manifest, model.arrays()
    statistics = ClassStatistics.from_bundle(model)
    if not is_solved(arrays[WEIGHT][: len(manifest.class_names)].astype(np.float64), statistics):
        raise ConfigError(
            "the last layer was trained, but merging classes needs one that is computed from the statistics; "
            "first replace the trained one, by adding classes with --recipe lda or photos with --solve-head; "
            "then merge the two classes"
        )
    merge_classes(statistics, row, into)
    arrays |= statistics.to_arrays()
    forget_what_was_measured(arrays, [into])
    arrays = without_row(arrays, row)
    unjudged = manifest.model_copy(update={"judged": without_judged(manifest.judged, into)})
    changed = without_class(unjudged, row)
    classes = len(changed.class_names)
    merged = ClassStatistics.from_arrays(arrays, statistics.level_values)
    solved = merged.discriminant(classes)
    arrays[WEIGHT][:classes], arrays[BIAS][:classes] = solved.head
    arrays |= score_tensors(merged, classes, solved.rows)
    names = (manifest.class_names[row], manifest.class_names[into])
    return Edited(arrays, changed, make_deed("merge-classes", names))

"""Changes one's mind about known classes, without photos: `rename_class` and `remove_class`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..custody.chain import make_deed
from ..errors import BundleError, ConfigError
from ..home.changes import Edited, change_model
from ..home.generation import permits_undo
from ..home.home import Generation, Home
from ..home.previous import model_before
from ..home.reports import ChangeReport
from ..learning.class_statistics import ClassStatistics
from ..learning.config import RECIPES
from ..learning.regrouping import is_solved, merge_classes
from ..learning.unknown import score_tensors
from ..model.bundle import (
    BIAS,
    CONFUSIONS,
    COUNTS,
    PHOTOS,
    ROWS_BY_CLASS,
    TOTAL,
    WEIGHT,
    Arrays,
    Bundle,
    forget_what_was_measured,
)
from ..model.manifest import BASE, Manifest, ShippedName
from ..photos.class_names import class_name_problem, fold_class_name, normalise_class_name, shown_class_name
from ..records import AnyPath

_NAME_REMAINS = "its name, in the record of the latest changes (lwm-edge info --history)"


def remove_class(
    home: Home | AnyPath,
    class_name: str,
    *,
    shipped: bool = False,
    exact: bool = False,
    sign_with: AnyPath | None = None,
    wait: bool = False,
) -> ChangeReport:
    """Removes a class from a home's model, without photos.

    The other classes keep their order; each class_index after that of the removed class falls by one, and a
    row of the head becomes free.

    Args:
        home: Model home, or the path of its folder.
        class_name: Name of the class.
        shipped: Whether a class that the vendor shipped may be removed too.
        exact: Whether the model must be as if it had never learnt the class. That is possible if the latest
            change added this class alone, the model before it holds nothing of a class that was removed
            earlier, and the vendor permits undo.
        sign_with: Path of the device's private key, to sign the change with.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        ConfigError: There is no such class, or it is a shipped one and `shipped` is not set, or it cannot be
            taken out exactly.
        BundleError: The class is the only one left.
        HomeError: The home cannot be written.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the key to sign
            with cannot be used.
    """

    def edit(generation: Generation, model: Bundle) -> Edited:
        row = _find_class(model.manifest, class_name)
        if exact:
            return _never_learnt(generation, model, row)
        _require_removable(model.manifest, row, shipped=shipped)
        return _removed(model, row)

    return change_model(home, edit, sign_with=sign_with, wait=wait)


def rename_class(
    home: Home | AnyPath,
    class_name: str,
    new_name: str,
    *,
    merge: bool = False,
    shipped: bool = False,
    sign_with: AnyPath | None = None,
    wait: bool = False,
) -> ChangeReport:
    """Gives a class another name or, with `merge`, its photos to a class that has that name already.

    Args:
        home: Model home, or the path of its folder.
        class_name: Name of the class.
        new_name: New name or, with `merge`, name of another class of the model.
        merge: Whether the two are to become one class, as if all photos had been learnt under `new_name`.
        shipped: Whether a class that the vendor shipped may go into another one; its name can be changed
            without this.
        sign_with: Path of the device's private key, to sign the change with.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        ConfigError: There is no such class, the new name cannot be given, or the two cannot become one.
        HomeError: The home cannot be written.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the key to sign
            with cannot be used.
    """

    def edit(generation: Generation, model: Bundle) -> Edited:
        row = _find_class(model.manifest, class_name)
        if not merge:
            return _renamed(model, row, normalise_class_name(new_name))
        into = _find_class(model.manifest, new_name, "; to give it a name that is new, leave --merge out")
        _require_mergeable(model.manifest, row, into, shipped=shipped)
        return _merged(model, row, into)

    return change_model(home, edit, sign_with=sign_with, wait=wait)


def _find_class(manifest: Manifest, class_name: str, otherwise: str = "") -> int:
    """Returns the row of a class.

    Args:
        manifest: Manifest of the model.
        class_name: Name of the class, in any case.
        otherwise: What else can be done if there is no such class, for the error.

    Raises:
        ConfigError: There is none of that name.
    """
    folded = [fold_class_name(name) for name in manifest.class_names]
    if fold_class_name(class_name) in folded:
        return folded.index(fold_class_name(class_name))
    for name in manifest.class_names:
        if shown_class_name(name) == shown_class_name(class_name):
            raise ConfigError(
                f"the model knows no class {class_name!a}, only {name!a}, which looks just like it; copy the "
                "name from lwm-edge info"
            )
    known = ", ".join(manifest.class_names)
    raise ConfigError(f"the model knows no class {class_name!r}; it knows: {known}{otherwise}")


def _require_removable(manifest: Manifest, row: int, *, shipped: bool) -> None:
    name = manifest.class_names[row]
    if row < manifest.shipped_classes and not shipped:
        raise ConfigError(
            f"{name} was shipped by the vendor, and this device cannot learn it again without photos; pass "
            "--shipped to remove it anyway"
        )
    if len(manifest.class_names) == 1:
        raise BundleError(f"{name} is the model's only class and cannot be removed")


def _removed(model: Bundle, row: int) -> Edited:
    """Removes a class's row; what the others answer stays as it is."""
    manifest, arrays = model.manifest, model.arrays()
    name = manifest.class_names[row]
    photos, all_photos = float(arrays[COUNTS][row]), float(arrays[PHOTOS][0])
    share = f"{photos / all_photos:.1%}" if all_photos else "0%"
    remains = [
        f"what the {photos:.0f} photos of {name} added to the covariance, {share} of the photos behind it",
        "its share in what the last layer and the score for unknown objects compare the other classes with, "
        "until the next add-classes, add-photos or merge solves them again",
        _NAME_REMAINS,
        *_network_remains(manifest, row, arrays),
    ]
    if permits_undo(manifest):
        remains.append(
            "the whole class, in previous.lwm until the next change, so that undo can bring it back"
        )
    return Edited(
        _without_row(arrays, row),
        _without_class(manifest, row),
        make_deed("remove-class", (name,)),
        remains=tuple(remains),
    )


def _network_remains(manifest: Manifest, row: int, arrays: Arrays) -> list[str]:
    """Says what the network may have of a class: a bundle names only the recipe of the latest increment.

    Whatever trains the network drops what the vendor measured, as that was another network's.
    """
    recipe = RECIPES.get(manifest.recipe)  # type: ignore[call-overload]
    if row < manifest.shipped_classes or (recipe and recipe.trains):
        return ["what the network was trained to see in it"]
    if manifest.recipe == BASE or arrays[TOTAL].any() or _learnt_once(manifest):
        return []
    return [
        "what the network was trained to see in it, if an earlier increment trained the network, which the "
        "model does not record"
    ]


def _learnt_once(manifest: Manifest) -> bool:
    """Tells whether the recipe of the latest increment is that of all, as the record of custody shows."""
    custody = manifest.custody
    if custody is None or custody.dropped_links or any(link.deed is None for link in custody.links):
        return False
    return sum(link.deed.kind in ("add-classes", "add-photos") for link in custody.links if link.deed) <= 1


def _never_learnt(generation: Generation, model: Bundle, row: int) -> Edited:
    """Brings back the model before the change that added a class, if it added no other.

    Raises:
        ConfigError: The model before is not that one.
    """
    manifest, name = model.manifest, model.manifest.class_names[row]
    refused = f"{name} cannot be taken out exactly, so nothing is changed"
    if row < manifest.shipped_classes:
        raise ConfigError(
            f"{refused}: the vendor's network was trained on it, so only a base that was made without it has "
            "never learnt it; pass --shipped and leave --exact out to remove its row and its statistics"
        )
    before = model_before(generation, model) if permits_undo(manifest) else None
    why_not = _why_not_without(model, before, row) if before else _why_not_kept(manifest)
    if before is None or why_not:
        raise ConfigError(
            f"{refused}: {why_not}. What its photos added to the covariance is not kept apart from what the "
            "others added: leave --exact out to remove all but that, or start over (lwm-edge init --replace) "
            "and learn the other classes again"
        )
    return Edited(
        before.arrays(),
        before.manifest,
        make_deed("remove-class", (name,)),
        remains=(_NAME_REMAINS,),
        may_be_undone=False,
    )


def _why_not_kept(manifest: Manifest) -> str:
    """Says why the home keeps no model from before a class was added."""
    if not permits_undo(manifest):
        return "the vendor does not permit undo, so the model before it is not kept"
    return "the model before the latest change is not kept any more"


def _why_not_without(model: Bundle, before: Bundle, row: int) -> str | None:
    """Says why the model before the latest change is not one that never learnt a class; None if it is."""
    manifest, name = model.manifest, model.manifest.class_names[row]
    if name in before.manifest.class_names:
        return "it was not the latest change that added it"
    if manifest.class_names != (*before.manifest.class_names, name):
        return "the latest change added other classes too; undo takes back all of them"
    now, then = (ClassStatistics.from_bundle(bundle) for bundle in (model, before))
    if then.photos + now.counts[row] != now.photos:
        return "the latest change was an undo, and the model before it has learnt the photos of the class too"
    if then.photos > then.counts.sum() and _may_have_lost_a_class(before.manifest):
        return (
            "a class was removed earlier, perhaps this one, and what its photos added to the covariance is "
            "in the model before the latest change, to which undo returns"
        )
    return None


def _may_have_lost_a_class(manifest: Manifest) -> bool:
    """Tells whether a class was removed from a model since it shipped, as far as its record says."""
    custody = manifest.custody
    if custody is None:
        return manifest.increment_count > 0
    removals = (link.deed is None or link.deed.kind == "remove-class" for link in custody.links)
    return custody.dropped_links > 0 or any(removals)


def _renamed(model: Bundle, row: int, name: str) -> Edited:
    """Gives a class another name.

    Raises:
        ConfigError: It cannot have that name.
    """
    manifest, old = model.manifest, model.manifest.class_names[row]
    names = manifest.class_names
    others = [other for other in names if other != old]
    if name == old:
        raise ConfigError(f"{old} is the name of that class already")
    if why := class_name_problem(name):
        raise ConfigError(f"{name!r} cannot be a class name: it {why}")
    for other in others:
        if fold_class_name(other) == fold_class_name(name):
            raise ConfigError(
                f"the model knows a class {other} already; to make one class of both, pass --merge"
            )
        if shown_class_name(other) == shown_class_name(name):
            raise ConfigError(
                f"{name} ({name!a}) looks just like {other} ({other!a}), so nobody could tell them apart; "
                "choose another name"
            )
    renamed = (*names[:row], name, *names[row + 1 :])
    changed = {"class_names": renamed, "renamed": _other_names(manifest.vendor_names, renamed)}
    return Edited(model.arrays(), manifest.model_copy(update=changed), make_deed("rename-class", (old, name)))


def _require_mergeable(manifest: Manifest, row: int, into: int, *, shipped: bool) -> None:
    """Refuses to merge a class into itself, or what the vendor does not permit to be merged.

    Raises:
        ConfigError: The classes cannot become one.
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
    """Makes a class part of another one, and solves the head again.

    Raises:
        ConfigError: The head does not follow from the statistics.
    """
    manifest, arrays = model.manifest, model.arrays()
    statistics = ClassStatistics.from_arrays(arrays)
    if not is_solved(arrays[WEIGHT][: len(manifest.class_names)].astype(np.float64), statistics):
        raise ConfigError(
            "the last layer was trained, so it does not follow from the statistics of the two classes; add "
            "classes with --recipe lda, or photos with --solve-head, which solves it, and merge them then"
        )
    merge_classes(statistics, row, into)
    arrays |= statistics.to_arrays()
    forget_what_was_measured(arrays, [into])
    arrays = _without_row(arrays, row)
    changed = _without_class(manifest, row)
    classes, merged = len(changed.class_names), ClassStatistics.from_arrays(arrays)
    solved = merged.discriminant(classes)
    arrays[WEIGHT][:classes], arrays[BIAS][:classes] = solved.head
    arrays |= score_tensors(merged, classes, solved.rows)
    names = (manifest.class_names[row], manifest.class_names[into])
    return Edited(arrays, changed, make_deed("merge-classes", names))


def _without_row(arrays: dict[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    for name in ROWS_BY_CLASS:
        array = arrays[name]
        arrays[name] = np.concatenate([array[:row], array[row + 1 :], np.zeros_like(array[:1])])
    arrays[CONFUSIONS] = _without_confusions(arrays[CONFUSIONS], row)
    return arrays


def _without_confusions(confusions: NDArray[np.int32], row: int) -> NDArray[np.int32]:
    """Removes the confusions of a class; the class indices after it fall by one."""
    pairs = confusions[:, :2]
    kept = confusions[(pairs != row).all(1) & (confusions[:, 2] > 0)]
    kept[:, :2] -= kept[:, :2] > row
    return np.concatenate([kept, np.zeros((len(confusions) - len(kept), 3), confusions.dtype)])


def _without_class(manifest: Manifest, row: int) -> Manifest:
    names = manifest.class_names
    left = (*names[:row], *names[row + 1 :])
    vendor_names = manifest.vendor_names
    return manifest.model_copy(
        update={
            "class_names": left,
            "shipped_classes": manifest.shipped_classes - (row < manifest.shipped_classes),
            "renamed": _other_names((*vendor_names[:row], *vendor_names[row + 1 :]), left),
        }
    )


def _other_names(vendor_names: tuple[str, ...], names: tuple[str, ...]) -> tuple[ShippedName, ...]:
    """Lists the shipped classes that have another name than the vendor gave them."""
    pairs = enumerate(zip(vendor_names, names, strict=False))
    return tuple(ShippedName(class_index=i, name=was) for i, (was, now) in pairs if was != now)

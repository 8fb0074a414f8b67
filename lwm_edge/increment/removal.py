"""Provides `remove_class`, which removes a class from a home's model and says what remains of the class."""

from __future__ import annotations

from pathlib import Path

from ..advice import home_option, remove_class_command
from ..custody.chain import make_deed
from ..errors import BundleError, ConfigError
from ..home.changes import Edited, change_model
from ..home.generation import permits_undo
from ..home.home import Generation, Home
from ..home.previous import model_before
from ..home.reports import ChangeReport
from ..learning.class_statistics import ClassStatistics
from ..learning.config import RECIPES
from ..model.bundle import Bundle
from ..model.manifest import BASE, Manifest
from ..model.tensors import COUNTS, PHOTOS, TOTAL, Arrays
from ..records import AnyPath, ProgressCallback, ignore_progress
from ..wording import counted
from .class_rows import find_class, without_class, without_row

_NAME_REMAINS = "its name, in the record of the latest changes (lwm-edge info --history)"


def remove_class(
    home: Home | AnyPath,
    class_name: str,
    *,
    shipped: bool = False,
    exact: bool = False,
    sign_with: AnyPath | None = None,
    on_progress: ProgressCallback = ignore_progress,
    wait: bool = False,
) -> ChangeReport:
    """Removes a class from a home's model; no photos are needed.

    The other classes keep their order, every higher class_index falls by one, and a row of the head becomes
    free.

    Args:
        home: Model home, or the path of its folder.
        class_name: Name of the class.
        shipped: Whether a class that the vendor shipped may be removed too.
        exact: Whether the model must be as if it had never learnt the class. That is possible if the latest
            change added this class alone, the model before it holds nothing of a class that was removed
            earlier, and the vendor permits undo.
        sign_with: Path of the device's private key, to sign the change with.
        on_progress: Function that is called before the new model is exported; any exception that it raises
            ends the call.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        ConfigError: There is no such class, or it is a shipped one and `shipped` is not set, or it cannot be
            taken out exactly.
        BundleError: The class is the only one left, or the home's bundle is damaged.
        ExportError: The ONNX file cannot be made, or the results of ONNX Runtime on this device differ from
            the network's (ParityError).
        HomeError: There is no home, or it cannot be written to.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the signing key
            cannot be used.
        ResourceError: Memory or disk space ran out.
    """

    def edit(generation: Generation, model: Bundle) -> Edited:
        """Removes the class from the model."""
        row = find_class(model.manifest, class_name)
        if exact:
            return _exactly_removed(generation, model, row)
        _require_removable(generation.home, model.manifest, row, shipped=shipped)
        return _removed(model, row)

    return change_model(home, edit, sign_with=sign_with, on_progress=on_progress, wait=wait)


def _require_removable(home: Path, manifest: Manifest, row: int, *, shipped: bool) -> None:
    name = manifest.class_names[row]
    if row < manifest.shipped_classes and not shipped:
        remove = remove_class_command(name, "--shipped", home_option(home))
        raise ConfigError(
            f"{name} was shipped by the vendor, and this device cannot learn it again without photos; to "
            f"remove it anyway: {remove}"
        )
    if len(manifest.class_names) == 1:
        raise BundleError(f"{name} is the model's only class and cannot be removed")


def _removed(model: Bundle, row: int) -> Edited:
    """Removes a class's rows from the tensors; the logits of the other classes stay as they are."""
    manifest, arrays = model.manifest, model.arrays()
    name = manifest.class_names[row]
    photos, all_photos = float(arrays[COUNTS][row]), float(arrays[PHOTOS][0])
    share = f"{photos / all_photos:.1%}" if all_photos else "0%"
    remains = [
        f"what the {counted(round(photos), 'photo', 'photos')} of {name}, {share} of all photos, added to "
        "the covariance",
        "its influence on how the last layer and the score for unknown objects treat the other classes, "
        "until a later add-classes, add-photos or merge computes both again",
        _NAME_REMAINS,
        *_network_remains(manifest, row, arrays),
    ]
    if permits_undo(manifest):
        remains.append(
            "the whole class, in previous.lwm until the next change, so that undo can bring it back"
        )
    return Edited(
        without_row(arrays, row),
        without_class(manifest, row),
        make_deed("remove-class", (name,)),
        remains=tuple(remains),
    )


def _network_remains(manifest: Manifest, row: int, arrays: Arrays) -> list[str]:
    """Says what the network may still know of a class.

    A bundle names only the recipe of the latest increment. But training clears the vendor's measurements, as
    they were made on another network. So if they are still there, no increment has trained the network.
    """
    recipe = RECIPES.get(manifest.recipe)  # type: ignore[call-overload]
    if row < manifest.shipped_classes or (recipe and recipe.trains):
        return ["what the network learnt about the class in training"]
    if manifest.recipe == BASE or arrays[TOTAL].any() or _learnt_once(manifest):
        return []
    return [
        "what the network learnt about the class, if an earlier increment trained the network (the model "
        "does not record whether one did)"
    ]


def _learnt_once(manifest: Manifest) -> bool:
    """Returns whether the custody record shows at most one increment, and so at most one recipe."""
    custody = manifest.custody
    if custody is None or custody.dropped_links or any(link.deed is None for link in custody.links):
        return False
    return sum(link.deed.kind in ("add-classes", "add-photos") for link in custody.links if link.deed) <= 1


def _exactly_removed(generation: Generation, model: Bundle, row: int) -> Edited:
    """Returns to the model before the change that added a class, if that change added no other class.

    Raises:
        ConfigError: The class cannot be removed exactly; the message says why.
    """
    manifest, name = model.manifest, model.manifest.class_names[row]
    refused = f"{name} cannot be removed exactly, so nothing is changed"
    if row < manifest.shipped_classes:
        raise ConfigError(
            f"{refused}: the vendor's network was trained on it, so only a base that was made without it "
            "would be free of it; pass --shipped and leave out --exact to remove its row and its statistics"
        )
    before = model_before(generation, model) if permits_undo(manifest) else None
    why_not = _why_not_exact(model, before, row) if before else _why_no_earlier_model(manifest)
    if before is None or why_not:
        raise ConfigError(
            f"{refused}: {why_not}. What its photos added to the covariance cannot be separated from what "
            "other photos added: leave out --exact to remove everything else, or start over (lwm-edge init "
            f"BASE.lwm --replace {home_option(generation.home)}) and learn the other classes again"
        )
    return Edited(
        before.arrays(),
        before.manifest,
        make_deed("remove-class", (name,)),
        remains=(_NAME_REMAINS,),
        may_be_undone=False,
    )


def _why_no_earlier_model(manifest: Manifest) -> str:
    """Says why the home keeps no model from before a class was added."""
    if not permits_undo(manifest):
        return "the vendor does not permit undo, so the home keeps no earlier model"
    return "the model before the latest change is no longer kept"


def _why_not_exact(model: Bundle, before: Bundle, row: int) -> str | None:
    """Says why a return to the previous model would not take a class out exactly; None if it would."""
    manifest, name = model.manifest, model.manifest.class_names[row]
    if name in before.manifest.class_names:
        return "the latest change did not add it"
    if manifest.class_names != (*before.manifest.class_names, name):
        return "the latest change added other classes too; undo removes all of them"
    now, then = (ClassStatistics.from_bundle(bundle) for bundle in (model, before))
    if then.photos + now.counts[row] != now.photos:
        return "the latest change was an undo, and the model before it has learnt from the class's photos too"
    if then.photos > then.counts.sum() and _may_have_lost_a_class(before.manifest):
        return (
            "a class was removed earlier, perhaps this one, and what its photos added to the covariance is "
            "in the model before the latest change, to which --exact would return"
        )
    return None


def _may_have_lost_a_class(manifest: Manifest) -> bool:
    """Returns whether a class may have been removed from a model since it shipped, going by its record."""
    custody = manifest.custody
    if custody is None:
        return manifest.increment_count > 0
    removals = (link.deed is None or link.deed.kind == "remove-class" for link in custody.links)
    return custody.dropped_links > 0 or any(removals)

"""Finds the row of a class in a model, and removes a class from a model's tensors and its manifest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..model import judged
from ..model.manifest import Manifest, ShippedName
from ..model.tensors import CONFUSIONS, ROWS_BY_CLASS
from ..photos.class_names import fold_class_name, shown_class_name


def find_class(manifest: Manifest, class_name: str, otherwise: str = "") -> int:
    """Returns the row of a class.

    Args:
        manifest: Manifest of the model.
        class_name: Name of the class, in upper or lower case.
        otherwise: Advice that the error adds if there is no such class.

    Raises:
        ConfigError: There is no class of that name.
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


def without_row(arrays: dict[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    """Removes a class from a model's tensors, in place; the rows after it move up by one."""
    for name in ROWS_BY_CLASS:
        array = arrays[name]
        arrays[name] = np.concatenate([array[:row], array[row + 1 :], np.zeros_like(array[:1])])
    arrays[CONFUSIONS] = _without_confusions(arrays[CONFUSIONS], row)
    return arrays


def _without_confusions(confusions: NDArray[np.int32], row: int) -> NDArray[np.int32]:
    """Removes the confusions of a class; higher class indices fall by one."""
    pairs = confusions[:, :2]
    kept = confusions[(pairs != row).all(1) & (confusions[:, 2] > 0)]
    kept[:, :2] -= kept[:, :2] > row
    return np.concatenate([kept, np.zeros((len(confusions) - len(kept), 3), confusions.dtype)])


def without_class(manifest: Manifest, row: int) -> Manifest:
    """Returns a manifest without a class."""
    names = manifest.class_names
    left = (*names[:row], *names[row + 1 :])
    vendor_names = manifest.vendor_names
    return manifest.model_copy(
        update={
            "class_names": left,
            "shipped_classes": manifest.shipped_classes - (row < manifest.shipped_classes),
            "renamed": other_names((*vendor_names[:row], *vendor_names[row + 1 :]), left),
            "judged": judged.without_row(manifest.judged, row),
        }
    )


def other_names(vendor_names: tuple[str, ...], names: tuple[str, ...]) -> tuple[ShippedName, ...]:
    """Lists the shipped classes that no longer have the name that the vendor gave them."""
    pairs = enumerate(zip(vendor_names, names, strict=False))
    return tuple(ShippedName(class_index=i, name=was) for i, (was, now) in pairs if was != now)

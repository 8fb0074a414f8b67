"""Makes the changes to a home that need no learning: starts it from a base, and removes a class."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from .. import storage
from ..custody.keys import read_private_key
from ..errors import BundleError, BusyError, ConfigError, HomeError, LwmEdgeError
from ..model.bundle import CONFUSIONS, ROWS_BY_CLASS, Arrays, Bundle, open_bundle
from ..model.manifest import Manifest
from ..model.onnx.parity import shipped_probe
from ..photos.class_names import fold_class_name
from ..records import AnyPath, absolute
from . import ownership
from .generation import Candidate, commit, prepare
from .home import Generation, Home, open_home
from .measurement import MemoryUse
from .reports import ChangeReport
from .trust import key_to_trust, require_signed_base, require_trusted_model, write_trusted_key


def init_home(
    base: AnyPath,
    home: AnyPath,
    *,
    replace: bool = False,
    trust: AnyPath | None = None,
    wait: bool = False,
) -> ChangeReport:
    """Makes a model home from a shipped base bundle.

    Args:
        base: Path of the bundle, which is copied.
        home: Path of the folder to make.
        replace: Whether to start an existing home over; what it learnt is lost.
        trust: Path of the vendor's public key; the home then takes no base, now or later, that this key did
            not sign. None keeps the key that the home trusts already, if any.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        BundleError: The base is damaged.
        HomeError: There is a home already and `replace` is not set, or the folder holds something else.
        ParityError: This device's ONNX Runtime does not compute what the network computes.
        TrustError: The base is not signed with the trusted key, or the key cannot be read.
    """
    started = time.monotonic()
    home, bundle = absolute(home), open_bundle(Path(base))
    opened = Home(home)
    _check_init(home, bundle, replace)
    require_signed_base(base, bundle.manifest, key_to_trust(opened, trust))
    with MemoryUse.measured() as use:
        arrays = bundle.arrays()
        candidate = _prepare(arrays, bundle.manifest, bundle, use, None, started=started, onnx_bytes_before=0)
    made_here = not os.path.lexists(home)
    with _no_new_folder(home, made_here), opened.lock(wait=wait), _no_half_made_home(opened, made_here):
        _check_init(home, bundle, replace)  # another process may have been faster
        key = key_to_trust(opened, trust)
        require_signed_base(base, candidate.manifest, key)  # the base may have been replaced as well
        if key:  # before the model, so that a home never forgets whom to trust
            write_trusted_key(opened, key)
        return _commit(opened, candidate, removed_class=None, trusted_key=key)


@contextmanager
def _no_new_folder(home: Path, made_here: bool) -> Iterator[None]:
    """Makes the folder of a home, and removes it if the block fails and nothing but a lock is in it."""
    try:
        storage.make_folder(home)
        yield
    except BusyError:  # another process is making the home
        raise
    except BaseException:
        if made_here:
            with suppress(LwmEdgeError):
                ownership.remove_new_folder(home)
        raise


@contextmanager
def _no_half_made_home(home: Home, made_here: bool) -> Iterator[None]:
    """Removes what `init` made, if it fails before there is a home.

    Args:
        home: Model home, whose lock is held.
        made_here: Whether `init` made the folder too.
    """
    was_home = ownership.is_home(home.path)
    trusted = home.trust.exists()
    try:
        yield
    except BaseException:
        if not was_home and not ownership.is_home(home.path):
            with suppress(LwmEdgeError):  # what went wrong first is what counts
                ownership.remove_half_made(home.path, keep_key=trusted, keep_folder=not made_here)
        raise


def _check_init(home: Path, base: Bundle, replace: bool) -> None:
    if not os.path.lexists(home):
        return
    if not home.is_dir():
        raise HomeError(f"{home} exists and is not a model home; choose a new or empty folder")
    if ownership.is_home(home):
        if not replace:
            raise HomeError(
                f"{home} is a model home already; to start it over from {base.path}, pass --replace"
            )
        return
    ownership.require_nothing_foreign(home)
    models = ownership.generations_with_bundles(home)
    if not replace and not all(_is_copy_of(base, Generation(folder)) for folder in models):
        raise HomeError(
            f"{home} has a model, but {ownership.CURRENT} points at none; to keep it, run: lwm-edge repair "
            f"--home {home}, or to start over from {base.path}, pass --replace"
        )


def _is_copy_of(base: Bundle, generation: Generation) -> bool:
    """Returns whether a generation is what an interrupted `init` from this base left."""
    try:
        found = open_bundle(generation.bundle).manifest
    except BundleError:
        return False
    return found.increment_count == 0 and found.model_digest == base.manifest.model_digest


def remove_class(
    home: Home | AnyPath,
    class_name: str,
    *,
    shipped: bool = False,
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
        sign_with: Path of the device's private key, to sign the change with.
        wait: Whether to wait for another process that is changing the home.

    Raises:
        ConfigError: There is no such class, or it is a shipped one and `shipped` is not set.
        BundleError: The class is the only one left.
        HomeError: The home cannot be written.
        BusyError: Another process is changing the home, and `wait` is not set.
        TrustError: The home's model does not verify against the key that the home trusts, or the key to sign
            with cannot be used.
    """
    started = time.monotonic()
    home = open_home(home)
    with home.lock(wait=wait), MemoryUse.measured() as use:
        parent = home.open_bundle()
        require_trusted_model(home, parent.manifest)
        device_key = read_private_key(sign_with) if sign_with else None
        row = _find_class(parent.manifest, class_name, shipped)
        arrays = parent.arrays()
        for name in ROWS_BY_CLASS:
            arrays[name] = _without_row(arrays[name], row)
        arrays[CONFUSIONS] = _without_confusions(arrays[CONFUSIONS], row)
        changed = _without_class(parent.manifest, row)
        before = home.current().onnx_bytes()
        candidate = _prepare(
            arrays, changed, parent, use, device_key, started=started, onnx_bytes_before=before
        )
        return _commit(home, candidate, removed_class=parent.manifest.class_names[row])


def _find_class(manifest: Manifest, class_name: str, shipped: bool) -> int:
    folded = [fold_class_name(name) for name in manifest.class_names]
    if fold_class_name(class_name) not in folded:
        known = ", ".join(manifest.class_names)
        raise ConfigError(f"the model knows no class {class_name!r}; it knows: {known}")
    row = folded.index(fold_class_name(class_name))
    if row < manifest.shipped_classes and not shipped:
        raise ConfigError(
            f"{manifest.class_names[row]} was shipped by the vendor, and this device cannot learn it again "
            "without photos; pass --shipped to remove it anyway"
        )
    if len(manifest.class_names) == 1:
        raise BundleError(f"{manifest.class_names[row]} is the model's only class and cannot be removed")
    return row


def _without_row(array: NDArray[Any], row: int) -> NDArray[Any]:
    return np.concatenate([array[:row], array[row + 1 :], np.zeros_like(array[:1])])


def _without_confusions(confusions: NDArray[np.int32], row: int) -> NDArray[np.int32]:
    """Removes the confusions of a class; the class indices after it fall by one."""
    pairs = confusions[:, :2]
    kept = confusions[(pairs != row).all(1) & (confusions[:, 2] > 0)]
    kept[:, :2] -= kept[:, :2] > row
    return np.concatenate([kept, np.zeros((len(confusions) - len(kept), 3), confusions.dtype)])


def _without_class(manifest: Manifest, row: int) -> Manifest:
    names = manifest.class_names
    return manifest.model_copy(
        update={
            "class_names": (*names[:row], *names[row + 1 :]),
            "shipped_classes": manifest.shipped_classes - (row < manifest.shipped_classes),
            "parent_digest": manifest.model_digest,
            "increment_count": manifest.increment_count + 1,
        }
    )


def _prepare(
    arrays: Arrays,
    manifest: Manifest,
    parent: Bundle,
    use: MemoryUse,
    device_key: Ed25519PrivateKey | None,
    *,
    started: float,
    onnx_bytes_before: int,
) -> Candidate:
    probe = shipped_probe(arrays, manifest)
    return prepare(
        arrays,
        manifest,
        parent,
        probe,
        use.report(manifest.preprocessing.image_size, probe.images),
        started=started,
        onnx_bytes_before=onnx_bytes_before,
        device_key=device_key,
    )


def _commit(
    home: Home, candidate: Candidate, *, removed_class: str | None, trusted_key: str | None = None
) -> ChangeReport:
    report = ChangeReport(
        home=home.path,
        removed_class=removed_class,
        class_names=candidate.manifest.class_names,
        model_digest=candidate.manifest.model_digest,
        parity=candidate.parity,
        footprint=candidate.footprint,
        onnx=home.onnx,
        trusted_key=trusted_key,
        warnings=(
            *home.describe_foreign(),
            *(storage.durability_warnings(home.path) if removed_class is None else ()),
        ),
    )
    late = commit(home, candidate, report)
    return report.model_copy(update={"warnings": (*report.warnings, *late)})

"""The other changes of a home: starting one from a shipped base, and taking a class back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import storage
from .bundle import NOT_THE_NETWORKS, ONNX_GRAPH, ROWS_BY_CLASS, Arrays, Bundle, open_bundle
from .errors import BundleError, ConfigError, HomeError
from .export import check_parity, fill_graph, generated_images
from .generation import Candidate, commit, prepare
from .home import CURRENT, GENERATIONS, LOCK, AnyPath, Home, open_home
from .manifest import Manifest, fold_class_name
from .measurement import MemoryUse
from .network import Network, empty_network, load_tensors
from .reports import ChangeReport, ExportReport, ParityReport


def init_home(base: AnyPath, home: AnyPath, *, replace: bool = False) -> ChangeReport:
    """Makes a model home from a shipped base bundle.

    Args:
        base: The bundle; it is copied.
        home: The folder to make.
        replace: Start an existing home over, what it learnt is lost.

    Raises:
        BundleError: The base is damaged.
        HomeError: There is a home already, or the folder holds something else.
        ParityError: This device's ONNX Runtime does not compute what the network computes.
    """
    started = time.monotonic()
    home, bundle = Path(home).absolute(), open_bundle(Path(base))
    _check_init(home, base, replace)
    with MemoryUse.measured() as use:
        arrays = bundle.arrays()
        candidate = _prepare(arrays, bundle.manifest, bundle, use, started=started, onnx_bytes_before=0)
    storage.make_folder(home)
    opened = Home(home)
    with opened.lock():
        _check_init(home, base, replace)  # another process may have been faster
        return _commit(opened, candidate, removed_class=None)


def _check_init(home: Path, base: AnyPath, replace: bool) -> None:
    if (home / CURRENT).is_symlink():
        if not replace:
            raise HomeError(f"{home} is a model home already; to start it over from {base}, say --replace")
    elif home.exists():
        leftovers = {LOCK, GENERATIONS, f".{CURRENT}.staged"}  # of an init that was interrupted
        if not home.is_dir() or {path.name for path in home.iterdir()} - leftovers:
            raise HomeError(f"{home} exists and is no model home; give a new or empty folder")


def remove_class(home: Home | AnyPath, class_name: str, *, shipped: bool = False) -> ChangeReport:
    """Takes a class out of a home's model, without photos.

    The order of the other classes stays; those behind it move up by one class_index, and a row of the head
    becomes free.

    Args:
        home: The model home, or its folder.
        class_name: The class.
        shipped: Also allow a class that the vendor shipped.

    Raises:
        ConfigError: No such class, or a shipped one without `shipped`.
        BundleError: It is the last class.
        HomeError: The home cannot be written.
        BusyError: Another process changes the home.
    """
    started = time.monotonic()
    home = open_home(home)
    with home.lock(), MemoryUse.measured() as use:
        parent = home.open_bundle()
        row = _find_class(parent.manifest, class_name, shipped)
        arrays = parent.arrays()
        for name in ROWS_BY_CLASS:
            arrays[name] = _without_row(arrays[name], row)
        changed = _without_class(parent.manifest, row)
        before = home.current().onnx_bytes()
        candidate = _prepare(arrays, changed, parent, use, started=started, onnx_bytes_before=before)
        return _commit(home, candidate, removed_class=parent.manifest.class_names[row])


def export_onnx(source: Home | AnyPath, output: AnyPath) -> ExportReport:
    """Writes a model's verified ONNX file.

    Args:
        source: The model home, or a bundle file.
        output: The ONNX file; replaced if it exists.

    Raises:
        HomeError: There is no home, or the file cannot be written.
        BundleError: The bundle is damaged.
        ExportError: The ONNX file could not be made or differs from the network (ParityError).
    """
    output = Path(output)
    if isinstance(source, Home) or Path(source).is_dir():
        content, manifest, parity = open_home(source).read(lambda g: _verified_onnx(open_bundle(g.bundle)))
    else:
        content, manifest, parity = _verified_onnx(open_bundle(Path(source)))
    storage.write_file(output, content)
    return ExportReport(
        onnx=output,
        onnx_bytes=len(content),
        class_names=manifest.class_names,
        model_digest=manifest.model_digest,
        parity=parity,
    )


def _verified_onnx(bundle: Bundle) -> tuple[bytes, Manifest, ParityReport]:
    arrays, manifest = bundle.arrays(), bundle.manifest
    content = fill_graph(arrays[ONNX_GRAPH].tobytes(), arrays, manifest)
    images = generated_images(manifest.preprocessing.image_size)
    return content, manifest, check_parity(content, bundle.network(), images, real_photos=False)


def _find_class(manifest: Manifest, class_name: str, shipped: bool) -> int:
    folded = [fold_class_name(name) for name in manifest.class_names]
    if fold_class_name(class_name) not in folded:
        known = ", ".join(manifest.class_names)
        raise ConfigError(f"the model knows no class {class_name!r}; it knows: {known}")
    row = folded.index(fold_class_name(class_name))
    if row < manifest.shipped_classes and not shipped:
        raise ConfigError(
            f"{manifest.class_names[row]} was shipped by the vendor, and this device cannot learn it again "
            "without photos; say --shipped to remove it all the same"
        )
    if len(manifest.class_names) == 1:
        raise BundleError(f"{manifest.class_names[row]} is the model's last class and stays")
    return row


def _without_row(array: NDArray[Any], row: int) -> NDArray[Any]:
    return np.concatenate([array[:row], array[row + 1 :], np.zeros_like(array[:1])])


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
    *,
    started: float,
    onnx_bytes_before: int,
) -> Candidate:
    network = network_of(arrays, manifest)
    return prepare(
        arrays, manifest, network, parent, None, use, started=started, onnx_bytes_before=onnx_bytes_before
    )


def network_of(arrays: Arrays, manifest: Manifest) -> Network:
    """The classifier that a bundle's tensors make, in eval mode."""
    tensors = {
        name: torch.from_numpy(array) for name, array in arrays.items() if name not in NOT_THE_NETWORKS
    }
    network = empty_network(
        manifest.architecture, len(manifest.class_names), manifest.capacity, manifest.preprocessing
    )
    return load_tensors(network, tensors)


def _commit(home: Home, candidate: Candidate, *, removed_class: str | None) -> ChangeReport:
    report = ChangeReport(
        home=home.path,
        removed_class=removed_class,
        class_names=candidate.manifest.class_names,
        model_digest=candidate.manifest.model_digest,
        parity=candidate.parity,
        footprint=candidate.footprint,
        onnx=home.onnx,
    )
    commit(home, candidate, report)
    return report

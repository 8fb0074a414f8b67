"""Attributes every byte of a home to an owner, and finds files and tensors that do not belong there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from .. import inspection
from ..home.generation import missing_or_changed, permits_undo, previous_model
from ..home.home import Generation, Home
from ..home.ownership import (
    CURRENT,
    GENERATION_FILES,
    GENERATIONS,
    LOCK,
    is_checkpoint,
    is_leftover,
    why_unreadable,
)
from ..home.trust import trust_problems
from ..model import manifest as manifests
from ..model.bundle import Bundle
from ..model.manifest import Manifest
from ..model.onnx.graph import declared_backbone
from ..model.tensors import MANIFEST, NUMPY_DTYPES, ONNX_GRAPH, ROWS_BY_CLASS, WEIGHT, declared_tensors
from ..wording import counted
from .hidden_content import (
    SYSTEM_ATTRIBUTES,
    attribute_problems,
    attributes,
    bundle_problems,
    checkpoint_problems,
    receipt_problems,
)
from .reports import AuditItem


def file_sizes(folder: Path) -> dict[Path, int]:
    """Returns the length of every file and link below a folder, hidden or not; links are not followed."""
    return {path: path.lstat().st_size for path in entries(folder) if not _is_folder(path)}


def entries(folder: Path) -> Iterator[Path]:
    """Yields every file, folder and link below a folder; links are not followed."""
    for path in sorted(folder.iterdir()):
        yield path
        if _is_folder(path):
            yield from entries(path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def attributes_of_the_system(folder: Path) -> tuple[str, ...]:
    """Names the extended attributes that the system set on a folder and its contents; none is audited."""
    found = {name for path in (folder, *entries(folder)) for name in attributes(path)}
    return tuple(sorted(found & SYSTEM_ATTRIBUTES))


def layout_problems(home: Home, generation: Generation, bundle: Bundle) -> list[str]:
    """Lists what does not belong in a home (even if hidden or empty), is missing, or is of the wrong kind."""
    files = {home.path / CURRENT, home.path / LOCK, *(generation.path / name for name in GENERATION_FILES)}
    files |= {home.trust} if home.trust.is_file() else set()
    files |= {generation.previous} if permits_undo(bundle.manifest) else set()
    files |= {home.training} if is_checkpoint(home.training) else set()
    folders = {home.path / GENERATIONS, generation.path}
    found = list(entries(home.path))
    problems = [
        _unexplained(path, home) for path in found if path not in (folders if _is_folder(path) else files)
    ]
    link, missing = home.path / CURRENT, files - set(found) - {home.path / LOCK}
    problems += [f"{path.relative_to(home.path)} is missing" for path in sorted(missing)]
    if link not in missing and not link.is_symlink():
        problems.append(f"{CURRENT} is {inspection.kind_at(link)}, not a link")
    problems += [  # anything but a file is a problem, even if its length is right
        f"{path.relative_to(home.path)} is {inspection.kind_at(path)}, not a file"
        for path in sorted(files - {link})
        if os.path.lexists(path) and not inspection.is_regular_file(path)
    ]
    return problems + [problem for path in (home.path, *found) for problem in attribute_problems(path)]


def _unexplained(path: Path, home: Home) -> str:
    relative = path.relative_to(home.path)
    if is_leftover(home.path, path):
        hint = (
            "unless a change is running now, an interrupted change left it behind, and the next change will "
            "remove it"
        )
    elif why := why_unreadable(path):
        hint = f"it cannot be read ({why}), so nobody can tell what it is; check its permissions and its disk"
    else:
        hint = "it does not belong to this home, so lwm-edge leaves it alone; move it out"
    what = "a folder" if _is_folder(path) else counted(path.lstat().st_size, "byte", "bytes")
    return f"{relative} ({what}) is unexplained: {hint}"


def bundle_items(bundle: Bundle, problems: list[str]) -> Iterator[AuditItem]:
    """Accounts for every byte of a bundle; undeclared tensors and hidden content are problems."""
    declared = _declared(bundle)
    tensor_bytes = 0
    with safe_open(bundle.path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            array = file.get_tensor(name)
            tensor_bytes += array.nbytes
            form = str(array.dtype), list(array.shape)
            if declared.get(name) != form:
                problems.append(
                    f"neither the graph nor lwm-edge declares a tensor {name} {' '.join(map(str, form))}"
                )
                yield AuditItem(owner="unexplained", part=name, bytes=array.nbytes)
            else:
                yield from _tensor_items(name, array, bundle.manifest)
    yield AuditItem(owner="bundle header", part="length", bytes=8)
    yield AuditItem(
        owner="bundle header",
        part="names, shapes, offsets",
        bytes=bundle.path.stat().st_size - tensor_bytes - 8,
    )
    problems += bundle_problems(bundle)


def _declared(bundle: Bundle) -> dict[str, tuple[str, list[int]]]:
    """Returns each tensor's data type and shape, which depend on the capacity, not the number of classes."""
    m, arrays = bundle.manifest, bundle.arrays(ONNX_GRAPH, WEIGHT)
    fixed = declared_tensors(m.capacity, arrays[WEIGHT].shape[1])
    return {
        **declared_backbone(arrays[ONNX_GRAPH].tobytes()),
        **{name: (str(np.dtype(NUMPY_DTYPES[dtype])), shape) for name, (dtype, shape) in fixed.items()},
        MANIFEST: ("uint8", [manifests.encoded_length(m.capacity)]),
        ONNX_GRAPH: ("uint8", [arrays[ONNX_GRAPH].size]),  # whatever length the vendor's exporter gave it
    }


def _tensor_items(name: str, array: NDArray[Any], manifest: Manifest) -> Iterator[AuditItem]:
    if name == MANIFEST:
        text = len(manifests.decode_text(array.tobytes()))
        yield AuditItem(owner="manifest", part="text", bytes=text)
        yield AuditItem(owner="padding", part="of the manifest", bytes=array.nbytes - text)
    elif name in ROWS_BY_CLASS:
        owner, in_use = _owner(name), array[: len(manifest.class_names)].nbytes
        yield AuditItem(owner=f"{owner} rows in use", part=name, bytes=in_use)
        yield AuditItem(owner=f"{owner} rows reserved", part=name, bytes=array.nbytes - in_use)
    elif name == ONNX_GRAPH:
        yield AuditItem(owner="onnx graph", part=name, bytes=array.nbytes)
    else:
        yield AuditItem(owner=_owner(name), part=name, bytes=array.nbytes)


def _owner(tensor: str) -> str:
    """Names the group that a tensor belongs to, from the first part of its name."""
    group = tensor.partition(".")[0]
    return {"measured": "measured accuracy", "unknown": "calibration", "probe": "parity probe"}.get(
        group, group
    )


def other_items(
    home: Home, generation: Generation, bundle: Bundle, problems: list[str]
) -> Iterator[AuditItem]:
    """Accounts for the other files of a home; those that do not match the bundle are problems."""
    if (home.path / CURRENT).is_symlink():
        yield AuditItem(owner="link", part=CURRENT, bytes=(home.path / CURRENT).lstat().st_size)
    for path, owner in (
        (generation.onnx, "onnx file"),
        (generation.labels, "labels"),
        (generation.receipt, "receipt"),
        (generation.previous, "previous model, for undo"),
        (home.trust, "trusted key"),
        (home.training, "checkpoint"),
    ):
        if path.is_file() and (path != home.training or is_checkpoint(path)):
            yield AuditItem(owner=owner, part=path.name, bytes=path.stat().st_size)
    if is_checkpoint(home.training):
        problems += checkpoint_problems(home.training, bundle)
    problems += trust_problems(home)
    wrong = missing_or_changed(generation, bundle)
    is_previous_sound = permits_undo(bundle.manifest) and generation.previous.name not in wrong
    if is_previous_sound and (previous := previous_model(generation, bundle)):
        problems += [f"{previous.path.name}: {problem}" for problem in bundle_problems(previous)]
    for name, why in wrong.items():
        if (generation.path / name).is_file():  # `layout_problems` reports missing files
            problems.append(f"{name} {why}")
    if generation.receipt.is_file():
        problems += receipt_problems(generation.receipt, bundle.manifest)

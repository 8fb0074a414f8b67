"""Attributes every byte of a home to an owner and finds what nothing declares."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import safe_open

from ..errors import ExportError
from ..home.generation import missing_or_changed
from ..home.home import Generation, Home
from ..home.ownership import CURRENT, GENERATION_FILES, GENERATIONS, LOCK, is_checkpoint, is_leftover
from ..home.reports import ChangeReport, RepairReport
from ..home.trust import trust_problems
from ..increment.reports import IncrementReport
from ..model import manifest as manifests
from ..model.bundle import MANIFEST, ONNX_GRAPH, ROWS_BY_CLASS, Bundle, declared_tensors
from ..model.loading import empty_network
from ..model.manifest import Manifest
from .reports import AuditItem

_RECEIPT_FIELDS = {f for kind in (IncrementReport, ChangeReport, RepairReport) for f in kind.model_fields}
_HEADER_PADDING = 8


def file_sizes(folder: Path) -> dict[Path, int]:
    """Returns the length of every file and link below a folder, hidden or not; links are not followed."""
    return {path: path.lstat().st_size for path in _entries(folder) if not _is_folder(path)}


def _entries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if _is_folder(path):
            yield from _entries(path)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def layout_problems(home: Home, generation: Generation) -> list[str]:
    """Lists files and folders that do not belong to a home (hidden or empty ones too), and those missing."""
    files = {home.path / CURRENT, home.path / LOCK, *(generation.path / name for name in GENERATION_FILES)}
    files |= {home.trust} if home.trust.is_file() else set()
    files |= {home.training} if is_checkpoint(home.training) else set()
    folders = {home.path / GENERATIONS, generation.path}
    entries = list(_entries(home.path))
    problems = [
        _unexplained(path, home) for path in entries if path not in (folders if _is_folder(path) else files)
    ]
    missing = files - set(entries) - {home.path / LOCK}
    problems += [f"{path.relative_to(home.path)} is missing" for path in sorted(missing)]
    return problems + [problem for path in (home.path, *entries) for problem in _attributes(path)]


def _unexplained(path: Path, home: Home) -> str:
    relative = path.relative_to(home.path)
    if is_leftover(home.path, path):
        hint = "left by an interrupted change; the next change removes it, unless one is running now"
    else:
        hint = "lwm-edge did not make it and leaves it alone; move it out of the home"
    what = "a folder" if _is_folder(path) else f"{path.lstat().st_size} bytes"
    return f"{relative} ({what}) is unexplained: {hint}"


def _attributes(path: Path) -> Iterator[str]:
    """Yields the user's extended attributes, which could hold anything, and count in no file's length."""
    if not hasattr(os, "listxattr"):
        return
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # the file system has none
        return
    for name in names:
        if name.startswith("user."):
            yield f"{path.name} carries the extended attribute {name}, which is unexplained"


def bundle_items(bundle: Bundle, problems: list[str]) -> Iterator[AuditItem]:
    """Accounts for every byte of a bundle; tensors that nothing declares are problems."""
    declared = _declared(bundle)
    tensor_bytes = 0
    with safe_open(bundle.path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118
            array = file.get_tensor(name)
            tensor_bytes += array.nbytes
            if name not in declared or list(array.shape) != declared[name]:
                architecture = bundle.manifest.architecture
                problems.append(f"{architecture} declares no tensor {name} {list(array.shape)}")
                yield AuditItem(owner="unexplained", part=name, bytes=array.nbytes)
            else:
                yield from _tensor_items(name, array, bundle.manifest)
    problems += _graph_problems(bundle)
    yield AuditItem(owner="bundle header", part="length", bytes=8)
    yield AuditItem(
        owner="bundle header",
        part="names, shapes, offsets",
        bytes=bundle.path.stat().st_size - tensor_bytes - 8,
    )
    problems += _header_problems(bundle.path)


def _declared(bundle: Bundle) -> dict[str, list[int]]:
    """Returns the shapes of a bundle's tensors; they depend on the capacity, not the number of classes."""
    m = bundle.manifest
    network = empty_network(m)
    declared = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    fixed = declared_tensors(m.capacity, network.head.in_features)
    declared |= {name: shape for name, (_, shape) in fixed.items()}
    graph_bytes = bundle.arrays(ONNX_GRAPH)[ONNX_GRAPH].size  # as the vendor's exporter made it
    return declared | {MANIFEST: [manifests.encoded_length(m.capacity)], ONNX_GRAPH: [graph_bytes]}


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
    """Names what a tensor belongs to: the first part of its own name."""
    group = tensor.partition(".")[0]
    return {"measured": "measured accuracy", "unknown": "calibration", "probe": "parity probe"}.get(
        group, group
    )


def _header_problems(path: Path) -> list[str]:
    """Checks that a header holds names, types, shapes and offsets, and nothing else."""
    with path.open("rb") as file:
        text = file.read(int.from_bytes(file.read(8), "little"))
    header: dict[str, Any] = json.loads(text)
    problems = [f"{path.name}: its header holds metadata"] if header.pop("__metadata__", None) else []
    shortest = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    if not problems and len(text) > shortest + _HEADER_PADDING:
        problems.append(f"{path.name}: its header holds {len(text) - shortest} bytes more than it needs")
    return problems


def _graph_problems(bundle: Bundle) -> list[str]:
    """Checks that a graph holds nodes, tensors filled from the bundle, and small constants; nothing else."""
    from ..model.onnx.graph import read_graph

    try:
        read_graph(bundle.arrays())
    except ExportError as error:
        return [f"{ONNX_GRAPH}: {problem}" for problem in error.problems or (error.message,)]
    return []


def other_items(
    home: Home, generation: Generation, bundle: Bundle, problems: list[str]
) -> Iterator[AuditItem]:
    """Accounts for every byte of a home but the bundle's; files that differ from the bundle are problems."""
    yield AuditItem(owner="link", part=CURRENT, bytes=(home.path / CURRENT).lstat().st_size)
    for path, owner in (
        (generation.onnx, "onnx file"),
        (generation.labels, "labels"),
        (generation.receipt, "receipt"),
        (home.trust, "trusted key"),
        (home.training, "checkpoint"),
    ):
        if path.is_file() and (path != home.training or is_checkpoint(path)):
            yield AuditItem(owner=owner, part=path.name, bytes=path.stat().st_size)
    problems += trust_problems(home)
    for name, why in missing_or_changed(generation, bundle).items():
        if (generation.path / name).is_file():  # `layout_problems` reports what is missing
            problems.append(f"{name} {why}")
    if generation.receipt.is_file():
        problems += _receipt_problems(generation.receipt, bundle.manifest)


def _receipt_problems(path: Path, manifest: Manifest) -> list[str]:
    """Checks that a receipt belongs to this ledger, and has only a receipt's fields."""
    try:
        receipt: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return []  # not a receipt, which `missing_or_changed` reports
    if not isinstance(receipt, dict):
        return []
    strange = receipt.keys() - _RECEIPT_FIELDS
    problems = [f"{path.name} has {key}, which is not a field of a receipt" for key in sorted(strange)]
    footprint = receipt.get("footprint")
    head = footprint.get("ledger_head") if isinstance(footprint, dict) else None
    if head is not None and head != manifest.ledger.head:
        problems.append(f"{path.name} was written for another ledger: its head is {head}")
    return problems

"""Finds content that is hidden in the files of a home.

In some places, hidden content cannot be found even in principle, because any value is possible there:

- the low bits of weights, momentum, statistics and the vendor's measurements;
- names and small constants in the graph that the vendor exported, as far as `model.onnx.checks` allows them;
- names of classes, the vendor's own words, and sentences and figures in a receipt or a checkpoint's plan;
- digests of models that are gone, and keys and signatures in a record, as there is no key to check them with;
- times, modes and owners of files, and the attributes in `SYSTEM_ATTRIBUTES`, which the audit's report names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open

from .. import inspection
from ..custody.chain import custody_problems
from ..errors import ExportError
from ..home.generation import padded_receipt
from ..home.ownership import CHECKPOINT_HEADER, checkpoint_header
from ..home.reports import ChangeReport, RepairReport
from ..increment.reports import IncrementReport
from ..increment.resume import HEADER_BYTES, read_header
from ..learning.config import RECIPES
from ..model.bundle import Bundle
from ..model.manifest import BASE, Manifest
from ..model.onnx.graph import declared_backbone, read_graph
from ..model.tensors import BIAS, CONFUSIONS, ONNX_GRAPH, ROWS_BY_CLASS, WEIGHT
from ..records import plain_json, require_as_written

_HEADER_PADDING = 8
_NEVER_TRAINED = (".running_mean", ".running_var")
SYSTEM_ATTRIBUTES = {  # from linux/xattr.h, apparmor(7) and the kernel's documentation of Smack
    *("security.selinux", "security.apparmor", "security.ima", "security.evm", "security.capability"),
    *("security.SMACK64", "security.SMACK64EXEC", "security.SMACK64TRANSMUTE", "security.SMACK64MMAP"),
    *("system.posix_acl_access", "system.posix_acl_default", "system.nfs4_acl", "system.richacl"),
}
"""Extended attributes that the operating system sets: labels, hashes and access rights."""


def attributes(path: Path) -> Iterator[str]:
    """Yields the names of extended attributes, which can hold anything, but are not in the file's length."""
    if hasattr(os, "listxattr"):
        with suppress(OSError):  # the file system has no extended attributes
            yield from os.listxattr(path, follow_symlinks=False)


def attribute_problems(path: Path) -> list[str]:
    """Lists the extended attributes that the operating system does not set by itself."""
    return [
        f"{path.name} has the extended attribute {name}, which is unexplained"
        for name in attributes(path)
        if name not in SYSTEM_ATTRIBUTES
    ]


def header_problems(path: Path) -> list[str]:
    """Checks that a safetensors file's header holds names, types, shapes and offsets, and nothing else."""
    with inspection.open_regular(path) as file:
        text = file.read(int.from_bytes(file.read(8), "little"))
    content = text.rstrip(b" ")
    try:
        header = plain_json(content)
    except ValueError as error:
        return [f"{path.name}: its header hides something: {error}"]
    if "__metadata__" in header:
        return [f"{path.name}: its header holds metadata"]
    if len(text) - len(content) != -len(content) % _HEADER_PADDING:
        return [f"{path.name}: its header is padded with {len(text) - len(content)} spaces"]
    if not _is_in_order(header):
        return [f"{path.name}: its tensors are not in the order in which lwm-edge writes them"]
    return []


def _is_in_order(header: dict[str, Any]) -> bool:
    """Returns whether tensors are in safetensors' order: by data type, the widest first, and then by name."""
    starts = [tensor["data_offsets"][0] for tensor in header.values()]
    runs = [(dtype, [*names]) for dtype, names in groupby(header, lambda name: header[name]["dtype"])]
    dtypes = [dtype for dtype, _ in runs]
    widths = [int(re.sub(r"\D", "", dtype) or 8) for dtype in dtypes]  # a BOOL takes 8 bits
    return (
        all(list(tensor) == ["dtype", "shape", "data_offsets"] for tensor in header.values())
        and starts == sorted(starts)
        and len(set(dtypes)) == len(dtypes)
        and widths == sorted(widths, reverse=True)
        and all(names == sorted(names) for _, names in runs)
    )


def bundle_problems(bundle: Bundle) -> Iterator[str]:
    """Finds content that is hidden in a bundle's header, rows, graph and manifest."""
    yield from header_problems(bundle.path)
    manifest, arrays = bundle.manifest, bundle.arrays(*ROWS_BY_CLASS, CONFUSIONS, ONNX_GRAPH)
    classes = len(manifest.class_names)
    for name in sorted(ROWS_BY_CLASS):
        if arrays[name][classes:].tobytes().strip(b"\0"):  # as bytes, because as a number -0.0 equals 0.0
            yield f"{name} has bits set beyond the last class"
    confusions = arrays[CONFUSIONS]
    if confusions[confusions[:, 2] == 0].any():
        yield f"{CONFUSIONS} names classes that were never confused"
    if manifest.recipe not in (BASE, *RECIPES):
        yield f"the manifest names the recipe {manifest.recipe!a}, which lwm-edge does not have"
    yield from (f"custody: {problem}" for problem in custody_problems(manifest, None, None))
    yield from _graph_problems(arrays[ONNX_GRAPH].tobytes(), bundle)


def _graph_problems(graph: bytes, bundle: Bundle) -> list[str]:
    """Checks that a graph holds nodes, tensors filled from the bundle, small constants, and nothing else."""
    try:
        model = read_graph(bundle.arrays())
    except ExportError as error:
        return [f"{ONNX_GRAPH}: {problem}" for problem in error.problems or (error.message,)]
    if model.SerializeToString(deterministic=True) != graph:
        return [f"{ONNX_GRAPH}: its bytes hold more than the graph that is read from them"]
    return []


def checkpoint_problems(path: Path, bundle: Bundle) -> Iterator[str]:
    """Finds what does not belong in a checkpoint for training this model or the previous one."""
    yield from header_problems(path)
    yield from (f"{path.name}: {problem}" for problem in _header_tensor_problems(path, bundle.manifest))
    arrays = bundle.arrays(ONNX_GRAPH, WEIGHT, BIAS)
    parameters = {name: list(arrays[name].shape) for name in (WEIGHT, BIAS)}
    for name, (dtype, shape) in declared_backbone(arrays[ONNX_GRAPH].tobytes()).items():
        if dtype == "float32" and not name.endswith(_NEVER_TRAINED):
            parameters[name] = shape
    with safe_open(path, framework="np") as file:
        names = set(file.keys()) - {CHECKPOINT_HEADER}
        for name in sorted(names):
            kind, _, parameter = name.partition(".")
            form = file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()
            is_known = kind in ("parameter", "momentum") and form == ("F32", parameters.get(parameter))
            if not is_known or not {f"parameter.{parameter}", f"momentum.{parameter}"} <= names:
                yield f"{path.name}: {name} {' '.join(map(str, form))} is not part of this model's training"


def _header_tensor_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    block, header = checkpoint_header(path) or b"", read_header(path)
    if header is None or len(block) != HEADER_BYTES:
        yield "its header is not as lwm-edge writes it"
        return
    # A kill just after a commit leaves the checkpoint of the previous model; the next change removes it.
    if header.parent_digest not in (manifest.model_digest, manifest.parent_digest):
        yield f"it belongs to the model {header.parent_digest}, which is neither this one nor the one before"
    try:
        require_as_written(header, block.rstrip(b" "))
    except ValueError as error:
        yield f"its header hides something: {error}"


def receipt_problems(path: Path, manifest: Manifest) -> list[str]:
    """Checks that a receipt belongs to this ledger, and holds a receipt's fields and nothing else."""
    content = inspection.read_or_why_not(path)
    if isinstance(content, str):
        return []  # `missing_or_changed` reports that it cannot be read
    text = content.rstrip(b" \n")
    try:
        receipt: Any = plain_json(text, indent=2)
        if content != padded_receipt(text, manifest.capacity):
            raise ValueError("its padding is not as lwm-edge writes it")
    except ValueError as error:
        return [f"{path.name} hides something: {error}"]
    if not isinstance(receipt, dict):
        return []  # `missing_or_changed` reports that it is not a receipt
    problems = [f"{path.name} has {problem}" for problem in _foreign_content(text)]
    footprint = receipt.get("footprint")
    head = footprint.get("ledger_head") if isinstance(footprint, dict) else None
    if head is not None and head != manifest.ledger.head:
        problems.append(f"{path.name} was written for another ledger: its head is {head}")
    return problems


def _foreign_content(receipt: bytes) -> list[str]:
    """Lists fields and values, at any depth, that do not belong in the kind of receipt that fits best.

    Fields may be missing, as an earlier release may not have had them yet.
    """
    foreign = []
    for kind in (IncrementReport, ChangeReport, RepairReport):
        try:
            kind.model_validate_json(receipt, strict=True)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            places = [(".".join(map(str, p["loc"])), p["type"]) for p in problems if p["type"] != "missing"]
            foreign.append(
                [
                    f"{place}, which is not a field of a receipt"
                    if why == "extra_forbidden"
                    else f"a value in {place} that no receipt can have"
                    for place, why in sorted(places)
                ]
            )
        else:
            return []
    return min(foreign, key=len)

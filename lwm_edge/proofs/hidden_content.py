"""Finds what could be hidden in the files of a home: in their attributes, headers and JSON.

Some things cannot be found in principle, since any value is possible in their place: the low bits of weights
and statistics, times of files, and the sentences in a receipt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open

from .. import storage
from ..home.ownership import CHECKPOINT_HEADER, checkpoint_header
from ..home.reports import ChangeReport, RepairReport
from ..increment.reports import IncrementReport
from ..increment.resume import HEADER_BYTES, read_header
from ..model.loading import empty_network
from ..model.manifest import Manifest
from ..records import plain_json

_HEADER_PADDING = 8
OF_THE_SYSTEM = {  # from linux/xattr.h, apparmor(7) and the kernel's documentation of Smack
    *("security.selinux", "security.apparmor", "security.ima", "security.evm", "security.capability"),
    *("security.SMACK64", "security.SMACK64EXEC", "security.SMACK64TRANSMUTE", "security.SMACK64MMAP"),
    *("system.posix_acl_access", "system.posix_acl_default", "system.nfs4_acl", "system.richacl"),
}
"""Extended attributes that the operating system sets: labels, hashes and access rights."""


def attributes(path: Path) -> Iterator[str]:
    """Yields the names of extended attributes, which could hold anything, and add to no file's length."""
    if hasattr(os, "listxattr"):
        with suppress(OSError):  # the file system has none
            yield from os.listxattr(path, follow_symlinks=False)


def attribute_problems(path: Path) -> list[str]:
    """Lists the extended attributes that the operating system does not set by itself."""
    return [
        f"{path.name} carries the extended attribute {name}, which is unexplained"
        for name in attributes(path)
        if name not in OF_THE_SYSTEM
    ]


def header_problems(path: Path) -> list[str]:
    """Checks that a safetensors file's header holds names, types, shapes and offsets, and nothing else."""
    with storage.open_regular(path) as file:
        text = file.read(int.from_bytes(file.read(8), "little"))
    content = text.rstrip(b" ")
    try:
        header = plain_json(content)
    except ValueError as error:
        return [f"{path.name}: its header hides something: {error}"]
    if header.get("__metadata__"):
        return [f"{path.name}: its header holds metadata"]
    if len(text) - len(content) >= _HEADER_PADDING:
        return [f"{path.name}: its header is padded with {len(text) - len(content)} spaces"]
    return []


def checkpoint_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    """Checks that a checkpoint is of this model, and holds what trains and its momentum, and nothing else."""
    yield from header_problems(path)
    yield from (f"{path.name}: {problem}" for problem in _header_tensor_problems(path, manifest))
    parameters = {name: list(p.shape) for name, p in empty_network(manifest).named_parameters()}
    with safe_open(path, framework="np") as file:
        names = set(file.keys()) - {CHECKPOINT_HEADER}
        for name in sorted(names):
            kind, _, parameter = name.partition(".")
            form = file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()
            is_known = kind in ("parameter", "momentum") and form == ("F32", parameters.get(parameter))
            if not is_known or not {f"parameter.{parameter}", f"momentum.{parameter}"} <= names:
                yield f"{path.name}: {name} {' '.join(map(str, form))} is no tensor of this model's training"


def _header_tensor_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    block, header = checkpoint_header(path) or b"", read_header(path)
    if header is None or len(block) != HEADER_BYTES:
        yield "its header is not as lwm-edge writes it"
        return
    # A kill just after a commit leaves the checkpoint of the previous model; the next change removes it.
    if header.parent_digest not in (manifest.model_digest, manifest.parent_digest):
        yield f"it belongs to the model {header.parent_digest}, which is neither this one nor the one before"
    try:
        plain_json(block.rstrip(b" "))
    except ValueError as error:
        yield f"its header hides something: {error}"


def receipt_problems(path: Path, manifest: Manifest) -> list[str]:
    """Checks that a receipt belongs to this ledger, and holds a receipt's fields and nothing else."""
    text = storage.read_regular(path).rstrip(b" \n")
    try:
        receipt: Any = plain_json(text, indent=2)
    except ValueError as error:
        return [f"{path.name} hides something: {error}"]
    if not isinstance(receipt, dict):
        return []  # not a receipt, which `missing_or_changed` reports
    problems = [f"{path.name} has {field}, which is not a field of a receipt" for field in _strange(text)]
    footprint = receipt.get("footprint")
    head = footprint.get("ledger_head") if isinstance(footprint, dict) else None
    if head is not None and head != manifest.ledger.head:
        problems.append(f"{path.name} was written for another ledger: its head is {head}")
    return problems


def _strange(receipt: bytes) -> list[str]:
    """Lists the fields, at any depth, that the best-fitting kind of receipt does not have."""
    strange = []
    for kind in (IncrementReport, ChangeReport, RepairReport):
        try:
            kind.model_validate_json(receipt)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            places = [".".join(map(str, p["loc"])) for p in problems if p["type"] == "extra_forbidden"]
            strange.append(sorted(places))
        else:
            return []
    return min(strange, key=len)

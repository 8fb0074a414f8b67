"""Reads and writes the bundle: one safetensors file that holds a classifier and never changes its length.

The module `tensors` says what is in it. File format: https://huggingface.co/docs/safetensors. Reading the
manifest and checking the digest need no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from .. import inspection, storage
from ..errors import BundleError, CapacityError, ResourceError, first_line, is_about_access, os_failure
from . import manifest as manifests
from .manifest import Manifest
from .tensors import (
    BESIDE_THE_NETWORK,
    CONFUSIONS,
    COUNTS,
    HISTOGRAM,
    MANIFEST,
    MEASURED,
    NAME_PATTERN,
    ONNX_GRAPH,
    PHOTOS,
    RIGHT,
    RIGHT_SOLVED,
    ROWS_BY_CLASS,
    SAFETENSORS_DTYPES,
    TOTAL,
    WEIGHT,
    Arrays,
    declared_tensors,
)
from .terms import MAX_CAPACITY

_NEVER_NEGATIVE = {COUNTS, PHOTOS, *MEASURED, HISTOGRAM}
_MAX_TENSOR_BYTES = {MANIFEST: manifests.encoded_length(MAX_CAPACITY), ONNX_GRAPH: 8 * 1024**2}
MAX_FILE_BYTES = 4 * 1024**3
MAX_HEADER_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Bundle:
    """Gives access to a verified bundle file.

    Attributes:
        path: Path of the file.
        manifest: Manifest, in which the bundle describes itself.
    """

    path: Path
    manifest: Manifest

    def arrays(self, *names: str) -> dict[str, NDArray[Any]]:
        """Reads the named tensors as NumPy copies; without names, reads all tensors except the manifest."""
        with readable(self.path), safe_open(self.path, framework="np") as file:
            wanted = names or [name for name in file.keys() if name != MANIFEST]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in wanted}


def open_bundle(path: Path) -> Bundle:
    """Opens a bundle and verifies it: format, schema, digest, finite values, length.

    Raises:
        BundleError: The file is not a sound bundle.
        ResourceError: The file does not fit into memory.
    """
    with _opened(path) as (file, manifest):
        names = set(file.keys())
        _check_names(path, names, BESIDE_THE_NETWORK | ROWS_BY_CLASS)  # `_opened` has refused other schemas
        _check_byte_array(path, ONNX_GRAPH, file.get_slice(ONNX_GRAPH))
        _verify(path, file, names, manifest)
    return Bundle(path, manifest)


def read_manifest(path: Path) -> Manifest:
    """Reads only the manifest of a bundle, not its tensors, which may be damaged; see `open_bundle`.

    Raises:
        BundleError: The file is not a bundle.
        ResourceError: The manifest does not fit into memory.
    """
    with _opened(path) as (_, manifest):
        return manifest


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Manifest]]:
    with readable(path):
        _check_lengths(path)
        with safe_open(path, framework="np") as file:
            _check_names(path, set(file.keys()), {MANIFEST})
            _check_byte_array(path, MANIFEST, file.get_slice(MANIFEST))
            yield file, manifests.decode(bytes(file.get_tensor(MANIFEST)), str(path))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns every failure to read a bundle into one of our errors.

    Raises:
        BundleError: The file is missing or damaged, or is of another kind.
        HomeError: The file may not be read, or its disk fails.
        ResourceError: The file does not fit into memory, or too many files are open.
    """
    try:
        yield
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist; give the path of a bundle (model.lwm)") from None
    except (SafetensorError, OSError) as error:
        if isinstance(error, OSError) and is_about_access(error):
            raise os_failure("read", path, error) from error
        raise BundleError(
            f"{path} is not a readable bundle ({first_line(error)}); the file is damaged or of another kind; "
            "copy it again from its source"
        ) from None
    except MemoryError:
        raise ResourceError(f"{path} does not fit into memory; close other programs and try again") from None


def _check_lengths(path: Path) -> None:
    """Checks the lengths of the file and of its header, before any memory is taken for them."""
    if not path.is_file():
        path.stat()  # raises if nothing is there
        raise BundleError(f"{path} is not a regular file; give the path of a bundle (model.lwm)")
    header_bytes = int.from_bytes(inspection.read_regular(path, 8), "little")
    if path.stat().st_size > MAX_FILE_BYTES or header_bytes > MAX_HEADER_BYTES:
        raise BundleError(
            f"{path} is not a readable bundle (it declares more data than any bundle has); the file is "
            "damaged or of another kind; copy it again from its source"
        )


def _check_names(path: Path, names: set[str], required: set[str]) -> None:
    if missing := required - names:
        raise BundleError(f"{path} is not an lwm-edge bundle: it has no tensor {', '.join(sorted(missing))}")
    if strange := [name for name in names if not NAME_PATTERN.fullmatch(name)]:
        raise BundleError(f"{path} is not an lwm-edge bundle: it has a tensor named {strange[0][:200]!r}")


def _check_byte_array(path: Path, name: str, tensor: Any) -> None:
    shape = tensor.get_shape()
    if tensor.get_dtype() != "U8" or len(shape) != 1:
        raise BundleError(f"{path} is not an lwm-edge bundle: its {name} is not an array of bytes")
    if shape[0] > _MAX_TENSOR_BYTES[name]:
        raise BundleError(
            f"{path} is not an lwm-edge bundle: its {name} is longer than {_MAX_TENSOR_BYTES[name]} bytes"
        )


def _verify(path: Path, file: Any, names: set[str], manifest: Manifest) -> None:
    problems = _declared_problems(path, file, names, manifest)  # first, as this reads no tensor
    digest = hashlib.sha256()
    for name in [] if problems else sorted(names - {MANIFEST}):
        array = file.get_tensor(name)
        _update_digest(digest, name, array)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            problems.append(f"{name} has values that are not finite")
        if name in ROWS_BY_CLASS and array[len(manifest.class_names) :].any():
            problems.append(f"{name} has values beyond the last class")
        if name in _NEVER_NEGATIVE and (array < 0).any():
            problems.append(f"{name} has negative numbers of photos")
    problems += [] if problems else _measured_problems(file, len(manifest.class_names))
    if not problems and digest.hexdigest() != manifest.tensors_digest:
        problems.append("the tensors do not match the manifest's digest")
    if problems:
        raise BundleError(f"{path} is damaged; copy it again from its source", problems)


def _measured_problems(file: Any, classes: int) -> list[str]:
    total = file.get_tensor(TOTAL)
    problems = [
        f"{name} has more photos than {TOTAL}"
        for name in (RIGHT, RIGHT_SOLVED)
        if (file.get_tensor(name) > total).any()
    ]
    confusions = file.get_tensor(CONFUSIONS)
    if (confusions[:, :2] >= classes).any():
        problems.append(f"{CONFUSIONS} names a class that does not exist")
    return problems


def _declared_problems(path: Path, file: Any, names: set[str], manifest: Manifest) -> list[str]:
    problems = []
    declared = declared_tensors(manifest.capacity, (file.get_slice(WEIGHT).get_shape() or [0])[-1])
    for name in sorted(names - {MANIFEST}):
        tensor = file.get_slice(name)
        dtype, shape = tensor.get_dtype(), tensor.get_shape()
        if dtype not in SAFETENSORS_DTYPES:
            problems.append(f"{name} has a data type that bundles do not use")
        if name in declared and (dtype, shape) != declared[name]:
            problems.append(f"{name} is {dtype} {shape}, not {' '.join(map(str, declared[name]))}")
    if path.stat().st_size != manifest.bundle_bytes:
        problems.append(
            f"it is {path.stat().st_size} bytes long, but was {manifest.bundle_bytes} when shipped"
        )
    return problems


def _update_digest(digest: Any, name: str, array: NDArray[Any]) -> None:
    digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
    digest.update(np.asarray(array, order="C").reshape(-1).view(np.uint8))


def tensors_digest(arrays: Arrays) -> str:
    """Computes the SHA-256 of the names, dtypes, shapes and bytes of all tensors but the manifest."""
    digest = hashlib.sha256()
    for name in sorted(arrays.keys() - {MANIFEST}):
        _update_digest(digest, name, arrays[name])
    return digest.hexdigest()


def save_bundle(
    path: Path,
    arrays: Arrays,
    manifest: Manifest,
    write: Callable[[Path, bytes], None] = storage.write_file,
) -> Bundle:
    """Writes a bundle atomically; fills in `tensors_digest` and, for a new bundle, `bundle_bytes`.

    Args:
        path: Path of the file, which is replaced if it exists.
        arrays: All tensors but the manifest.
        manifest: Manifest, whose `bundle_bytes` is 0 for a new bundle.
        write: Function that writes the file; `outputs.write_output` if a user named the file.

    Raises:
        BundleError: The length would change.
        CapacityError: There are more classes than rows, or their names take up too much room.
    """
    manifest = manifest.model_copy(update={"tensors_digest": tensors_digest(arrays)})
    return write_bundle(path, arrays, manifest, write)


def write_bundle(
    path: Path,
    arrays: Arrays,
    manifest: Manifest,
    write: Callable[[Path, bytes], None] = storage.write_file,
) -> Bundle:
    """Writes a bundle as `save_bundle` does, given a manifest that already has the digest of the tensors."""
    if len(manifest.class_names) > manifest.capacity:
        raise CapacityError(f"{len(manifest.class_names)} classes exceed the capacity of {manifest.capacity}")
    if not manifest.bundle_bytes:  # a manifest's length does not depend on its content
        manifest = manifest.model_copy(update={"bundle_bytes": len(_serialize(arrays, manifest))})
    content = _serialize(arrays, manifest)
    if len(content) != manifest.bundle_bytes:
        raise BundleError(
            f"{path} would be {len(content)} bytes long, not {manifest.bundle_bytes} as shipped"
        )
    write(path, content)
    return Bundle(path, manifest)


def _serialize(arrays: Arrays, manifest: Manifest) -> bytes:
    block = np.frombuffer(manifests.encode(manifest), dtype=np.uint8)
    return serialize({**{n: np.asarray(a, order="C") for n, a in arrays.items()}, MANIFEST: block})

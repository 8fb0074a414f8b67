"""Defines the manifest, in which a bundle describes itself: a block of JSON that has a fixed length.

The length depends on the capacity alone (24 KiB + 128 bytes per class), so a bundle never grows.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, ValidationError, computed_field, field_validator, model_validator

from ..errors import BundleError, CapacityError
from ..photos.class_names import class_name_problem, fold_class_name, text_problem
from ..photos.preprocessing import Preprocessing
from ..records import Digest, Record, invalid_values, require_as_written
from .custody_record import ClassName, Custody
from .judged import Judged, problem_with
from .ledger import Ledger
from .terms import ARCHITECTURE_KEY, MAX_CAPACITY, Activation, Line, Paragraph, Permission

SCHEMA_VERSION = 2
MAX_LEVEL_BLOCKS = 64
BASE = "base"
"""Recipe of a model that no increment has changed."""

_FIXED_BYTES = 24 * 1024
_BYTES_PER_CLASS = 128
_OTHER_RELEASE = "install the lwm-edge release that fits the bundle"
_BEFORE_ANY_RELEASE = (
    "version 1 was used only before the first release; rebuild the base with lwm-edge build-base"
)
_LISTED_PROBLEMS, _LONGEST_PROBLEM = 50, 500

VENDOR_FIELDS = ("author", "license", "description", "permits")
"""Fields of the manifest that the vendor sets, and that no change on a device alters."""


class Levels(Record):
    """Names the earlier blocks of the network that the head reads besides the last feature maps.

    Attributes:
        blocks: Indices of the blocks in `Network.blocks`, ascending.
        grid: Number of cells per side; a block's output is averaged in each of grid x grid cells.
        values: Number of values that the head reads from these blocks in total.
    """

    blocks: tuple[Annotated[int, Field(ge=0, lt=4096)], ...] = Field(
        min_length=1, max_length=MAX_LEVEL_BLOCKS
    )
    grid: int = Field(ge=1, le=8)
    values: int = Field(ge=1, le=65_536)

    @field_validator("blocks")
    @classmethod
    def _ascend(cls, blocks: tuple[int, ...]) -> tuple[int, ...]:
        if list(blocks) != sorted(set(blocks)):
            raise ValueError("blocks are not in ascending order")
        return blocks


class ShippedName(Record):
    """Keeps the name that the vendor gave to a shipped class that has been renamed.

    Attributes:
        class_index: Position of the class.
        name: Name that the vendor gave it.
    """

    class_index: int = Field(ge=0, lt=MAX_CAPACITY)
    name: ClassName


class Manifest(Record):
    """Describes everything about a bundle that is not a tensor.

    Attributes:
        schema_version: Version of the bundle format.
        architecture: Key in the registry of `architectures`, never an import path.
        preprocessing: Preprocessing that turns a photo into the network's input.
        activation: Function that turns logits into probabilities; the base was trained with it.
        levels: Earlier blocks that the head reads too; None if it reads the last feature maps alone.
        class_names: Class names in the order in which they were added; the position is the class_index.
        shipped_classes: Number of the vendor's classes that are left; they come first.
        renamed: Vendor's names of the shipped classes that were renamed, ascending by class_index.
        author: Author of the base, as the vendor wrote it.
        license: Licence of the base, by its name or address.
        description: Free-text description of the base, for people to read.
        permits: Changes that the vendor permits besides those that every device may make.
        capacity: Maximum number of classes that this bundle can ever hold.
        bundle_bytes: Length of the file, which stays as it was when the bundle was shipped.
        recipe: Recipe of the latest increment that is part of this model, or "base".
        tensors_digest: SHA-256 over all tensors but the manifest.
        parent_digest: Digest of the model before the latest change.
        increment_count: Number of changes since the vendor shipped the bundle.
        ledger: Ledger of the cost of making the home and of each later change; see the module `ledger`.
        judged: Records of how often classes were recognised when this device learnt them, ascending by
            class_index.
        custody: Record of the changes and signatures from the shipped base to this model; None until the base
            is changed or signed.
    """

    schema_version: Literal[2] = 2
    architecture: str = Field(pattern=ARCHITECTURE_KEY)
    preprocessing: Preprocessing
    activation: Activation
    levels: Levels | None = None
    class_names: tuple[str, ...] = Field(min_length=1)
    shipped_classes: int = Field(ge=0)
    renamed: tuple[ShippedName, ...] = ()
    author: Line | None = None
    license: Line | None = None
    description: Paragraph | None = None
    permits: tuple[Permission, ...] = Field(default=(), max_length=8)
    capacity: int = Field(ge=1, le=MAX_CAPACITY)
    bundle_bytes: int = Field(ge=0)
    recipe: str = Field(max_length=64)
    tensors_digest: Digest
    parent_digest: Digest | None = None
    increment_count: int = Field(default=0, ge=0)
    ledger: Ledger = Ledger()
    judged: tuple[Judged, ...] = Field(default=(), max_length=MAX_CAPACITY)
    custody: Custody | None = None

    @field_validator("class_names")
    @classmethod
    def _names_are_safe(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        problems = [f"class name {name!r} {why}" for name in names if (why := class_name_problem(name))]
        if len({fold_class_name(name) for name in names}) < len(names):
            problems.append("two class names are the same")
        if problems:
            raise ValueError("; ".join(problems))
        return names

    @field_validator("author", "license", "description")
    @classmethod
    def _text_is_safe(cls, text: str | None) -> str | None:
        if text is not None and (problem := text_problem(text)):
            raise ValueError(problem)
        return text

    @field_validator("permits")
    @classmethod
    def _permits_ascend(cls, permits: tuple[str, ...]) -> tuple[str, ...]:
        if list(permits) != sorted(set(permits)):
            raise ValueError("permits are not sorted")
        return permits

    @model_validator(mode="after")
    def _counts_agree(self) -> Manifest:
        if not self.shipped_classes <= len(self.class_names) <= self.capacity:
            raise ValueError("shipped_classes <= number of class_names <= capacity does not hold")
        renamed = [shipped.class_index for shipped in self.renamed]
        if renamed != sorted({index for index in renamed if index < self.shipped_classes}):
            raise ValueError("`renamed` is not in ascending order, or lists a class that was not shipped")
        if renamed and not self.increment_count:
            raise ValueError("`renamed` lists a class, but nothing has been changed yet")
        if any(self.class_names[shipped.class_index] == shipped.name for shipped in self.renamed):
            raise ValueError("`renamed` lists a class that has the vendor's name")
        if problem := problem_with(self.judged, len(self.class_names)):
            raise ValueError(problem)
        if self.judged and not self.increment_count:
            raise ValueError("`judged` has figures, but nothing has been changed yet")
        return self

    @property
    def vendor_names(self) -> tuple[str, ...]:
        """Returns the vendor's names for the shipped classes that are left, in class_index order."""
        names = list(self.class_names[: self.shipped_classes])
        for shipped in self.renamed:
            names[shipped.class_index] = shipped.name
        return tuple(names)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def model_digest(self) -> str:
        """Computes the SHA-256 of the model and of the vendor's statements about it; leaves out its history.

        ONNX metadata and the custody record contain this digest; `parent_digest` is that of the model
        before the latest change.
        """
        identity = self.model_dump(include={"class_names", "preprocessing", "levels", *VENDOR_FIELDS})
        identity["tensors"] = self.tensors_digest
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def encoded_length(capacity: int) -> int:
    """Returns the length of an encoded manifest in bytes, which depends on the capacity alone."""
    return _FIXED_BYTES + _BYTES_PER_CLASS * capacity


def encode(manifest: Manifest) -> bytes:
    """Encodes the manifest as JSON, zero-padded to `encoded_length`.

    Raises:
        CapacityError: The names take up too much room (quotation marks, for example, are escaped).
    """
    text = manifest.model_dump_json().encode()
    length = encoded_length(manifest.capacity)
    if len(text) > length:
        raise CapacityError(
            f"the manifest needs {len(text)} bytes, but has only {length}; use shorter class names"
        )
    return text.ljust(length, b"\0")


def decode_text(block: bytes) -> bytes:
    """Returns the JSON in a manifest's block, without the padding."""
    return block.partition(b"\0")[0]


def decode(block: bytes, where: str) -> Manifest:
    """Decodes a manifest that `encode` has encoded.

    Args:
        block: Bytes of the manifest tensor.
        where: Name of the file, for errors.

    Raises:
        BundleError: The block is not JSON, has another schema version, breaks a rule of the format, has the
            wrong length, does not match the model's digest, or hides something.
    """
    text = decode_text(block)
    padding = block[len(text) :]
    try:
        content = json.loads(text)
        version, model_digest = content.get("schema_version"), content.pop("model_digest", None)
    except (ValueError, AttributeError, RecursionError):
        raise BundleError(f"{where}: the manifest is not JSON; the file is damaged") from None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{where} has bundle schema version {_short(repr(version))}; this lwm-edge reads version "
            f"{SCHEMA_VERSION}; {_BEFORE_ANY_RELEASE if version == 1 else _OTHER_RELEASE}"
        )
    if padding.strip(b"\0"):
        raise BundleError(f"{where}: there are bytes hidden after the manifest")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{where}: the manifest breaks the bundle format", _problems(error)) from None
    if len(block) != encoded_length(manifest.capacity):
        raise BundleError(f"{where}: the manifest's length does not match its capacity")
    if manifest.model_digest != model_digest:
        raise BundleError(
            f"{where}: class names, preprocessing, levels, the vendor's terms or the tensors' digest do not "
            "match the model's digest"
        )
    try:
        require_as_written(manifest, text)
    except ValueError as error:
        raise BundleError(f"{where}: the manifest hides something: {error}") from None
    return manifest


def _problems(error: ValidationError) -> list[str]:
    return [
        _short(f"{(name or 'manifest') if name.isprintable() else ascii(name)}: {message}")
        for name, message in invalid_values(error)[:_LISTED_PROBLEMS]
    ]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_PROBLEM else f"{text[:_LONGEST_PROBLEM]} ..."

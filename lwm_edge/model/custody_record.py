"""Defines the custody record that a bundle's manifest contains; the length of the record is limited.

The package `custody` makes and checks it. A public key is written as its 32 raw bytes in hexadecimal.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..photos.class_names import MAX_CLASS_NAME_BYTES, class_name_problem
from ..records import Digest, PublicKey, Record

LINKS_KEPT = 8  # even the longest links fit into a manifest along with the longest ledger
NAMES_KEPT = 2  # number of class names that the record of one change has room for
_LARGEST = 2**53 - 1
LAST_SECOND = 253_402_300_799  # 9999-12-31 23:59:59 UTC

ChangeKind = Literal[
    "add-classes", "add-photos", "remove-class", "rename-class", "merge-classes", "undo", "calibrate"
]


def _safe_name(name: str) -> str:
    if problem := class_name_problem(name):
        raise ValueError(f"class name {name!r} {problem}")
    return name


ClassName = Annotated[str, Field(max_length=MAX_CLASS_NAME_BYTES), AfterValidator(_safe_name)]


class Signature(Record):
    """Holds an Ed25519 signature (RFC 8032).

    Attributes:
        key: Public key that the signature claims to match.
        value: Signature in hexadecimal.
    """

    key: PublicKey
    value: str = Field(pattern=r"^[0-9a-f]{128}$")


class BaseStatement(Record):
    """States what a vendor signs about a base: what defines the model, but nothing that a device measures.

    Attributes:
        architecture: Key of the network's architecture.
        activation: Function that turns logits into probabilities.
        capacity: Maximum number of classes that the bundle can ever hold.
        bundle_bytes: Length of the bundle file.
        preprocessing_digest: SHA-256 of the preprocessing and of the levels that the head reads.
        shipped_classes: Number of shipped classes.
        class_names_digest: SHA-256 of the shipped classes' names, in order.
        terms_digest: SHA-256 of the author, the licence, the description and the vendor's permissions.
        model_digest: Digest of the base: tensors, class names, preprocessing, levels and terms.
    """

    architecture: str = Field(max_length=64)
    activation: str = Field(max_length=16)
    capacity: int = Field(ge=1)
    bundle_bytes: int = Field(ge=0)
    preprocessing_digest: Digest
    shipped_classes: int = Field(ge=0)
    class_names_digest: Digest
    terms_digest: Digest
    model_digest: Digest


class Deed(Record):
    """Says, in limited space, what a change did, to which classes and when.

    Attributes:
        kind: Kind of the change.
        class_names: Names of the first classes that it affected. For a renaming, they are the old name and
            the new one; for a merge, the class that was merged and the class that it was merged into.
        more_classes: Number of further classes that it affected.
        unix_seconds: Time of the change by the device's clock, in seconds since 1970.
    """

    kind: ChangeKind
    class_names: tuple[ClassName, ...] = Field(default=(), max_length=NAMES_KEPT)
    more_classes: int = Field(default=0, ge=0, le=_LARGEST)
    unix_seconds: int = Field(ge=0, le=LAST_SECOND)


class Link(Record):
    """Records one change to the model.

    Attributes:
        increment: Number of the change; the shipped base has number 0.
        parent_digest: Digest of the model before the change.
        model_digest: Digest of the model after the change.
        shipped_classes: Number of the vendor's classes that were left after the change.
        deed: Description of the change; None if an older lwm-edge made the change.
        signature: Signature by the device's key; None if the change was not signed.
    """

    increment: int = Field(ge=1)
    parent_digest: Digest
    model_digest: Digest
    shipped_classes: int = Field(ge=0)
    deed: Deed | None = None
    signature: Signature | None = None


class Custody(Record):
    """Records, in limited space, how the shipped base became the current model.

    Attributes:
        base: Statement about the shipped base; None if the record was begun after the first change.
        base_signature: Vendor's signature of the base, if there is one.
        links: Latest changes, at most 8 of them, oldest first.
        dropped_links: Number of older changes that were forgotten.
    """

    base: BaseStatement | None = None
    base_signature: Signature | None = None
    links: tuple[Link, ...] = Field(default=(), max_length=LINKS_KEPT)
    dropped_links: int = Field(default=0, ge=0)

    def with_link(self, link: Link) -> Custody:
        """Returns the record after one more change."""
        links = (*self.links, link)
        dropped = self.dropped_links + max(0, len(links) - LINKS_KEPT)
        return self.model_copy(update={"links": links[-LINKS_KEPT:], "dropped_links": dropped})

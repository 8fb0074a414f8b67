"""Keeps the footprint ledger: what the changes cost, kept in constant space and protected by a hash chain.

    link of an entry = SHA-256(link of the entry before, the entry)
    before           = link of the newest entry that is no longer kept
    head             = link of the newest entry
    seal             = SHA-256(head, first, maximum)

Editing `first`, `maximum` or an entry that is kept breaks the chain or the seal. Later changes build on
the stored head, so they do not mend the break. If somebody recomputes everything, the head differs from the
one in the receipt, and from any copy kept elsewhere. An entry is hashed as JSON with sorted keys, without
figures that were not measured, so that fields added later do not change older links.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from ..records import Digest, Record

LEDGER_LENGTH = 16
_LARGEST = 2**53 - 1  # exact in every JSON reader; also limits an entry's length
_START = "0" * 64

_Count = Annotated[int, Field(ge=0, le=_LARGEST)]


class LedgerEntry(Record):
    """Records what one change to the model cost, in measured figures that the model digest does not cover.

    A figure is None if it was not measured, for example because there is no GPU, or because an older lwm-edge
    made the entry. `home.measurement` says how the memory figures are taken.

    Attributes:
        increment: Number of the change; 0 for making a home from the shipped base.
        classes: Number of classes after the change.
        bundle_bytes: Length of model.lwm.
        onnx_bytes: Length of classifier.onnx.
        peak_rss_bytes: High-water mark of the process's resident memory.
        seconds: Wall-clock time of the change, up to the writing of its files.
        labels_bytes: Length of labels.txt.
        peak_anonymous_bytes: Largest anonymous part of resident memory, sampled.
        peak_mapped_bytes: Largest part of resident memory that maps files or is shared, sampled.
        peak_cuda_bytes: Largest memory that torch held on the GPU.
        teacher_networks: Number of networks alive besides the student.
        images_alive: Number of images that the change left in memory.
    """

    increment: _Count
    classes: Annotated[int, Field(ge=1, le=_LARGEST)]
    bundle_bytes: _Count
    onnx_bytes: _Count
    peak_rss_bytes: _Count
    seconds: float = Field(ge=0, le=_LARGEST)
    labels_bytes: _Count | None = None
    peak_anonymous_bytes: _Count | None = None
    peak_mapped_bytes: _Count | None = None
    peak_cuda_bytes: _Count | None = None
    teacher_networks: _Count | None = None
    images_alive: _Count | None = None

    def maximum(self, other: LedgerEntry) -> LedgerEntry:
        """Returns an entry with the larger of the two values of each field."""
        pairs = ((name, (getattr(self, name), getattr(other, name))) for name in LedgerEntry.model_fields)
        known = {name: [value for value in pair if value is not None] for name, pair in pairs}
        return LedgerEntry.model_validate({name: max(values) for name, values in known.items() if values})


class Ledger(Record):
    """Keeps the footprint of the changes in constant space: the first, the latest 16, and the maximum of all.

    Attributes:
        first: Oldest entry of all.
        maximum: Maximum over all entries, field by field.
        latest: Latest entries, oldest first.
        before: Link of the newest entry that is no longer kept.
        head: Link of the newest entry; None if there is no entry, or in a ledger of an older lwm-edge, which
            had no chain.
        seal: Seal over head, first and maximum.
    """

    first: LedgerEntry | None = None
    maximum: LedgerEntry | None = None
    latest: tuple[LedgerEntry, ...] = Field(default=(), max_length=LEDGER_LENGTH)
    before: Digest | None = None
    head: Digest | None = None
    seal: Digest | None = None

    @property
    def last(self) -> LedgerEntry | None:
        """Returns the newest entry."""
        return self.latest[-1] if self.latest else None

    @property
    def fastest_seconds(self) -> float:
        """Returns the seconds of the fastest change on record; 0 if there is none.

        Every change includes exporting and checking a model, so these two take at most about this long.
        """
        entries = (*self.latest, *([self.first] if self.first else []))
        return min((entry.seconds for entry in entries), default=0.0)

    def with_entry(self, entry: LedgerEntry) -> Ledger:
        """Returns the ledger after one more change; a broken chain or seal stays broken."""
        everything = (*self.latest, entry)
        left, kept = everything[:-LEDGER_LENGTH], everything[-LEDGER_LENGTH:]
        first = self.first or entry
        maximum = self.maximum.maximum(entry) if self.maximum else entry
        head = _link(self.head or _follow(_START, self.latest), entry)
        intact = self.seal == self._expected_seal() or self.head is None
        return Ledger(
            first=first,
            maximum=maximum,
            latest=kept,
            before=_follow(self.before or _START, left),
            head=head,
            seal=_digest(head, first, maximum) if intact else self.seal,
        )

    def problems(self) -> list[str]:
        """Lists the signs that the ledger was edited; none for a ledger that an older lwm-edge made."""
        if self.head is None:
            chained = [entry for entry in self.latest if entry.labels_bytes is not None]
            return ["the ledger's hash chain was removed"] if chained else []
        found = []
        if _follow(self.before or _START, self.latest) != self.head:
            found.append("the ledger was edited: its entries do not lead to the head of its hash chain")
        if self.seal != self._expected_seal():
            found.append("the ledger was edited: its seal does not match its head, first and maximum")
        return found

    def _expected_seal(self) -> str:
        return _digest(self.head or "", self.first, self.maximum)


def _link(before: str, entry: LedgerEntry) -> str:
    return _digest(before, entry)


def _follow(link: str, entries: Sequence[LedgerEntry]) -> str:
    for entry in entries:
        link = _link(link, entry)
    return link


def _digest(before: str, *entries: LedgerEntry | None) -> str:
    content = [before, *(entry.model_dump(exclude_none=True) if entry else None for entry in entries)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

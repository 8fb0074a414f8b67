"""Builds and checks the chain of custody: the statements that vendor and device sign, and their record.

Every signature covers a statement: a line that names the kind of statement, followed by canonical JSON. The
vendor's statement describes everything that defines the shipped base. A device's statement describes one
change: the model before it, the model after it, and the base that both come from. `home.trust` and
`proofs.verification` decide whether a model can be trusted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..model.custody_record import (
    LAST_SECOND,
    LINKS_KEPT,
    NAMES_KEPT,
    BaseStatement,
    ChangeKind,
    Custody,
    Deed,
    Link,
)
from ..model.manifest import VENDOR_FIELDS, Manifest
from ..wording import counted
from .keys import sign, signature_matches

_BASE, _INCREMENT = "lwm-edge base v1", "lwm-edge increment v1"


def base_statement(manifest: Manifest) -> BaseStatement:
    """Builds the statement about a base that the vendor signs."""
    return BaseStatement(
        architecture=manifest.architecture,
        activation=manifest.activation,
        capacity=manifest.capacity,
        bundle_bytes=manifest.bundle_bytes,
        preprocessing_digest=_digest_of(_preprocessing(manifest)),
        shipped_classes=manifest.shipped_classes,
        class_names_digest=_digest_of(manifest.vendor_names),
        terms_digest=_digest_of(manifest.model_dump(include=set(VENDOR_FIELDS))),
        model_digest=manifest.model_digest,
    )


def _preprocessing(manifest: Manifest) -> dict[str, Any]:
    """Collects the settings by which a photo becomes the head's inputs."""
    return manifest.model_dump(include={"preprocessing", "levels"})


def make_deed(kind: ChangeKind, class_names: Sequence[str] = ()) -> Deed:
    """Describes a change that is being made now; names the first few classes and counts the others."""
    return Deed(
        kind=kind,
        class_names=tuple(class_names[:NAMES_KEPT]),
        more_classes=max(0, len(class_names) - NAMES_KEPT),
        unix_seconds=min(max(0, int(time.time())), LAST_SECOND),
    )


def record_change(
    manifest: Manifest, parent: Manifest, key: Ed25519PrivateKey | None, deed: Deed | None = None
) -> Manifest:
    """Records the change from `parent` to `manifest`, signed if there is a device key.

    Args:
        manifest: Manifest of the changed model, with its digests filled in. If it has the same
            number of changes as `parent`, it is returned unchanged.
        parent: Manifest of the model before the change.
        key: Private key of the device; None if it has no key.
        deed: Description of the change.
    """
    if manifest.increment_count == parent.increment_count:
        return manifest
    custody = parent.custody or _new_record(parent)
    link = Link(
        increment=manifest.increment_count,
        parent_digest=parent.model_digest,
        model_digest=manifest.model_digest,
        shipped_classes=manifest.shipped_classes,
        deed=deed,
    )
    if key:
        link = link.model_copy(update={"signature": sign(key, _link_text(link, custody.base))})
    return manifest.model_copy(update={"custody": custody.with_link(link)})


def continues_record(now: Manifest, before: Manifest) -> bool:
    """Tells whether a model's record is the previous model's record, which must be sound, plus one change."""
    if now.custody is None or not now.custody.links or custody_problems(before, None, None):
        return False
    record = before.custody or _new_record(before)
    return record.with_link(now.custody.links[-1]) == now.custody


def _new_record(parent: Manifest) -> Custody:
    if parent.increment_count:
        return Custody(dropped_links=parent.increment_count)
    return Custody(base=base_statement(parent))


def custody_problems(manifest: Manifest, vendor_key: str | None, device_key: str | None) -> tuple[str, ...]:
    """Lists everything that is wrong with the record in a manifest; `open_bundle` checks the tensors' digest.

    Args:
        manifest: Manifest of an opened bundle.
        vendor_key: Key that must have signed the base; None accepts an unsigned base and any key.
        device_key: Key that must have signed every recorded change; None accepts unsigned ones and any key.
    """
    custody = manifest.custody or _new_record(manifest)
    return (
        *_signature_problems(custody, vendor_key),
        *_base_problems(custody.base, manifest),
        *_chain_problems(custody, manifest),
        *(p for link in custody.links for p in _link_problems(link, custody.base, device_key)),
    )


def _signature_problems(custody: Custody, vendor_key: str | None) -> list[str]:
    base, signature = custody.base, custody.base_signature
    if base is None or signature is None:
        return ["the base is not signed"] if vendor_key else []
    problems = []
    if vendor_key and signature.key != vendor_key:
        problems.append(
            f"the base is signed with the key {signature.key}, not with the trusted key {vendor_key}"
        )
    if not signature_matches(signature, base_text(base)):
        problems.append(
            "the base's signature does not match its statement: the signature, its key or the statement was "
            "altered"
        )
    return problems


def _base_problems(base: BaseStatement | None, manifest: Manifest) -> list[str]:
    """Lists where the model differs from the base's statement in a way that no change can explain."""
    if base is None:
        return []
    now = base_statement(manifest)
    problems = [
        f"{name} is {getattr(now, name)}, but the base's statement says {getattr(base, name)}"
        for name in ("architecture", "activation", "capacity", "bundle_bytes")
        if getattr(now, name) != getattr(base, name)
    ]
    if now.preprocessing_digest != base.preprocessing_digest:
        problems.append("the preprocessing or the head's inputs do not match the base's statement")
    if now.terms_digest != base.terms_digest:
        problems.append("author, licence, description or permits do not match the base's statement")
    removed = base.shipped_classes - now.shipped_classes
    if not 0 <= removed <= manifest.increment_count:
        problems.append(
            f"shipped_classes is {now.shipped_classes}, but the base's statement says {base.shipped_classes}"
        )
    elif not removed and now.class_names_digest != base.class_names_digest:
        problems.append("the names of the shipped classes do not match the base's statement")
    return problems


def _chain_problems(custody: Custody, manifest: Manifest) -> list[str]:
    """Lists every break in the links that lead from the base, or the oldest link kept, to this model."""
    problems, links, dropped = [], custody.links, custody.dropped_links
    if dropped + len(links) != manifest.increment_count:
        problems.append(
            f"the number of changes to the model is {manifest.increment_count}, but the record holds "
            f"{len(links)} and has dropped {dropped}: links were added or removed"
        )
    if custody.base and dropped and len(links) < LINKS_KEPT:
        problems.append(
            f"{counted(dropped, 'change is', 'changes are')} missing from the record, although it is not full"
        )
    for place, link in enumerate(links, start=dropped + 1):
        if link.increment != place:
            problems.append(f"change {link.increment} is in the record where change {place} belongs")
    shipped = {custody.base.model_digest: custody.base.shipped_classes} if custody.base else {}
    for before, after in pairwise(links):
        if after.parent_digest != before.model_digest:
            problems.append(f"change {after.increment} does not start from the model of the change before it")
        shipped[before.model_digest] = before.shipped_classes
        took_back = after.model_digest == before.parent_digest  # `undo` can bring a shipped class back
        most = shipped.get(after.model_digest, after.shipped_classes) if took_back else before.shipped_classes
        if after.shipped_classes > most:
            problems.append(f"change {after.increment} has more shipped classes than the change before it")
    return problems + _end_problems(custody, manifest)


def _end_problems(custody: Custody, manifest: Manifest) -> list[str]:
    problems, links, base = [], custody.links, custody.base
    if base and links and not custody.dropped_links and links[0].parent_digest != base.model_digest:
        problems.append(f"change {links[0].increment} does not start from the shipped base")
    if links:
        end = links[-1].parent_digest, links[-1].model_digest, links[-1].shipped_classes
        if end != (manifest.parent_digest, manifest.model_digest, manifest.shipped_classes):
            problems.append(f"the record ends at change {links[-1].increment}, not at the current model")
    elif base and not manifest.increment_count and base.model_digest != manifest.model_digest:
        problems.append(
            "the model (tensors, class names, preprocessing, levels) does not match the base's statement"
        )
    return problems


def _link_problems(link: Link, base: BaseStatement | None, device_key: str | None) -> list[str]:
    name, signature = f"change {link.increment}", link.signature
    if signature is None:
        return [f"{name} is not signed"] if device_key else []
    problems = []
    if device_key and signature.key != device_key:
        problems.append(
            f"{name} is signed with the key {signature.key}, not with the trusted key {device_key}"
        )
    if not signature_matches(signature, _link_text(link, base)):
        problems.append(f"{name} has a signature that does not match: the change or signature was altered")
    return problems


def base_text(statement: BaseStatement) -> bytes:
    """Returns the bytes that a vendor signs."""
    return _text(_BASE, statement.model_dump())


def _link_text(link: Link, base: BaseStatement | None) -> bytes:
    base_digest = hashlib.sha256(base_text(base)).hexdigest() if base else None
    content = link.model_dump(exclude={"signature"} if link.deed else {"signature", "deed"})
    return _text(_INCREMENT, {**content, "base": base_digest})


def _text(kind: str, content: Any) -> bytes:
    return f"{kind}\n{_canonical(content)}".encode()


def _digest_of(content: Any) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

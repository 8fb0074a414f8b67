"""Provides `verify`, which follows the chain of custody and says what this does and does not prove."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .. import inspection
from ..custody.chain import custody_problems
from ..custody.keys import read_public_key
from ..errors import BundleError, TrustError
from ..home.generation import is_onnx_of
from ..home.home import Generation, Home, home_or_bundle
from ..home.trust import trusted_key
from ..model.bundle import Bundle, open_bundle
from ..model.custody_record import BaseStatement, Custody, Link
from ..model.manifest import Manifest
from ..records import AnyNamePath, AnyPath, Report


class VerificationReport(Report):
    """Reports what `verify` found; nothing is proven unless it passed.

    Attributes:
        home: Path of the home; None if a bundle file was verified.
        bundle: Path of the bundle.
        passed: Whether every check passed.
        problems: Sentences about checks that failed.
        proven: Sentences about what is proven.
        not_proven: Sentences about what is not proven.
        trusted_key: Vendor's public key that `verify` used, in hexadecimal.
        trusted_key_file: File that the trusted key was read from.
        base_digest: Digest of the shipped base, as recorded.
        base_signed_by: Public key that the base's signature names.
        model_digest: Digest of the current model.
        changes: Number of changes since the base was shipped.
        links_recorded: Number of changes that are still in the record.
        links_signed: Number of recorded changes that have a device's signature.
        device_keys: Public keys that the devices' signatures name.
    """

    home: AnyNamePath | None
    bundle: AnyNamePath
    passed: bool
    problems: tuple[str, ...]
    proven: tuple[str, ...]
    not_proven: tuple[str, ...]
    trusted_key: str | None
    trusted_key_file: AnyNamePath | None
    base_digest: str | None
    base_signed_by: str | None
    model_digest: str
    changes: int
    links_recorded: int
    links_signed: int
    device_keys: tuple[str, ...]


@dataclass(frozen=True)
class _Keys:
    """Holds the keys to verify against.

    Attributes:
        vendor: Public key of the vendor; None if there is none.
        vendor_file: File that the vendor's key was read from.
        from_home: Whether the caller gave no vendor key, so that the one that the home trusts (if any) is
            used.
        device: Public key of the device, if it was given.
        problems: Problems with these keys.
    """

    vendor: str | None
    vendor_file: Path | None
    from_home: bool
    device: str | None
    problems: tuple[str, ...]


def verify(
    source: Home | AnyPath, *, trust: AnyPath | None = None, device_key: AnyPath | None = None
) -> VerificationReport:
    """Verifies a home's model or a bundle file against the vendor's public key.

    Args:
        source: Model home, or the path of its folder or of a bundle.
        trust: Path of the vendor's public key; None means the key that the home trusts. For a
            bundle file, a path is required.
        device_key: Path of the public key of the device that must have signed every recorded change.

    Returns:
        The findings; if a check fails, or there is no key to verify against, `passed` is False and `problems`
            says why.

    Raises:
        TrustError: The file is not a sound bundle that matches its own digests, or a key file cannot be used.
        BundleError: There is no such file.
        HomeError: There is no home.
        ResourceError: Memory ran out.
    """
    found = home_or_bundle(source)
    if not isinstance(found, Home):
        keys = _read_keys(None, trust, device_key)
        return _verify(_open(found), keys, None, [])
    keys = _read_keys(found, trust, device_key)
    return found.read(lambda g: _verify_generation(g, keys, found))


def _read_keys(home: Home | None, trust: AnyPath | None, device_key: AnyPath | None) -> _Keys:
    own = trusted_key(home) if home else None
    vendor, file, problems = own, home.trust if home and own else None, []
    if trust:
        vendor, file = read_public_key(trust), Path(trust)
        if own and own != vendor:
            problems.append(f"the home trusts the key {own}, not {vendor} from {trust}")
    elif vendor is None:
        problems.append("there is no key to verify against: pass the vendor's with --trust vendor.pub")
    device = read_public_key(device_key) if device_key else None
    return _Keys(vendor, file, trust is None, device, tuple(problems))


def _open(path: Path) -> Bundle:
    try:
        return open_bundle(path)
    except BundleError as error:
        if not path.exists():
            raise
        raise TrustError(f"nothing is proven: {error.message}", error.problems) from None


def _verify_generation(generation: Generation, keys: _Keys, home: Home) -> VerificationReport:
    bundle = _open(generation.bundle)
    return _verify(bundle, keys, home, _onnx_problems(generation, bundle))


def _onnx_problems(generation: Generation, bundle: Bundle) -> list[str]:
    """Compares classifier.onnx, which apps load and nobody signs, with the file made from the bundle."""
    if not generation.onnx.is_file():
        return [f"{generation.onnx.name} is missing"]
    content = inspection.read_or_why_not(generation.onnx)
    if isinstance(content, str):
        return [f"{generation.onnx.name} cannot be read ({content})"]
    same = is_onnx_of(bundle)(content)
    return [] if same else [f"{generation.onnx.name} does not match the bundle: it was altered"]


def _verify(bundle: Bundle, keys: _Keys, home: Home | None, onnx_problems: list[str]) -> VerificationReport:
    manifest = bundle.manifest
    custody = manifest.custody or Custody()
    problems = (*keys.problems, *custody_problems(manifest, keys.vendor, keys.device), *onnx_problems)
    proven, not_proven = [], ["Everything about this model: the verification failed."]
    if not problems and custody.base:
        proven = _proven_of_base(custody.base, manifest, keys) + _proven_of_changes(custody, keys)
        proven += (
            ["classifier.onnx is, byte for byte, the file that is made from this bundle."] if home else []
        )
        not_proven = _never_proven(keys) + _not_proven_of_changes(custody, manifest, keys)
    signed = [link.signature.key for link in custody.links if link.signature]
    return VerificationReport(
        home=home.path if home else None,
        bundle=bundle.path,
        passed=not problems,
        problems=problems,
        proven=tuple(proven),
        not_proven=tuple(not_proven),
        trusted_key=keys.vendor,
        trusted_key_file=keys.vendor_file,
        base_digest=custody.base.model_digest if custody.base else None,
        base_signed_by=custody.base_signature.key if custody.base_signature else None,
        model_digest=manifest.model_digest,
        changes=manifest.increment_count,
        links_recorded=len(custody.links),
        links_signed=len(signed),
        device_keys=tuple(dict.fromkeys(signed)),
    )


def _proven_of_base(base: BaseStatement, manifest: Manifest, keys: _Keys) -> list[str]:
    lines = [
        f"A holder of the private key for {keys.vendor_file} signed the base {base.model_digest}: its "
        f"tensors, ONNX graph, {base.shipped_classes} class names, preprocessing, architecture, "
        "what the last layer reads, activation, capacity, length, author, licence, description and "
        "permissions."
    ]
    if not manifest.increment_count:
        return [*lines, "This model is that base, unchanged."]
    kept = (
        "Architecture, what the last layer reads, activation, capacity, length, preprocessing, author, "
        "licence, description and permissions"
    )
    if manifest.shipped_classes == base.shipped_classes:
        kept += ", and the names and order of the shipped classes,"
        names = manifest.class_names
        lines += [
            f"{names[shipped.class_index]} is the class that the vendor signed as {shipped.name}."
            for shipped in manifest.renamed
        ]
        kept += " but for those that were renamed," if manifest.renamed else ""
    return [*lines, f"{kept} are still those that were signed."]


def _proven_of_changes(custody: Custody, keys: _Keys) -> list[str]:
    if not custody.links:
        return []
    names = _name_changes(custody.links)
    start = "" if custody.dropped_links else ", from that base"
    lines = [
        f"The record lists {names} without a gap{start} up to this model; where the record is not signed, it "
        "is only a claim."
    ]
    if keys.device:
        lines.append(
            f"A holder of the device's private key signed {names}, and with them which base this model "
            "goes back to."
        )
    return lines


def _never_proven(keys: _Keys) -> list[str]:
    lines = [
        "What the base was trained on, or how good it is: a signature only says who vouches for the base.",
        "That this is the newest model: an older copy of the bundle verifies as well.",
        "Recipe, ledger, receipt and labels: no signature covers them.",
    ]
    if keys.from_home:
        lines.append(
            f"That {keys.vendor_file} is the vendor's: whoever can change the home can change this key too; "
            "verify with --trust and a copy of the key from elsewhere."
        )
    else:
        lines.append(f"That {keys.vendor_file} is the vendor's: only you can know.")
    return lines


def _not_proven_of_changes(custody: Custody, manifest: Manifest, keys: _Keys) -> list[str]:
    if not manifest.increment_count:
        return []
    lines = ["What the changes did to the weights: the vendor signed the base and nothing after it."]
    forgotten = manifest.increment_count - len(custody.links)
    if forgotten:
        lines.append(
            "That the first change goes back to the signed base: the bundle no longer lists it."
            if forgotten == 1
            else f"That the first {forgotten} changes go back to the signed base: the bundle no longer lists "
            "them."
        )
    if unsigned := [link for link in custody.links if link.signature is None]:
        lines.append(
            f"Who made {_name_changes(unsigned)}: without a signature, it could be anyone who can write the "
            "bundle."
        )
    if signed := [link for link in custody.links if link.signature]:
        if keys.device is None:
            lines.append(
                f"Whose key signed {_name_changes(signed)}: pass the device's public key with --device-key."
            )
        lines.append(
            f"What {_name_changes(signed)} learnt: whoever holds the device's key signs a claim, not photos."
        )
    if custody.base and manifest.shipped_classes < custody.base.shipped_classes:
        lines.append(
            "What the shipped classes are called: some were removed, so the others' names cannot be compared."
        )
    return lines


def _name_changes(links: list[Link] | tuple[Link, ...]) -> str:
    return ("change " if len(links) == 1 else "changes ") + ", ".join(str(link.increment) for link in links)

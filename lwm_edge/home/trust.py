"""Keeps the vendor's key that a home trusts, and refuses bases and models that do not match it."""

from __future__ import annotations

from .. import inspection, storage
from ..advice import home_option
from ..custody.chain import custody_problems
from ..custody.keys import public_key_pem, read_public_key
from ..errors import TrustError
from ..model.manifest import Manifest
from ..records import AnyPath
from .home import Home


def trusted_key(home: Home) -> str | None:
    """Returns the vendor's key that a home trusts, in hexadecimal; None if the home trusts no key.

    Raises:
        TrustError: The key's file cannot be read, or is not as `init` wrote it.
    """
    if not (home.trust.exists() or home.trust.is_symlink()):
        return None
    key = read_public_key(home.trust)
    if home.trust.is_symlink() or inspection.read_regular(home.trust) != public_key_pem(key):
        raise TrustError(
            f"{home.trust} was altered; start over with the vendor's base and key: lwm-edge init BASE.lwm "
            f"--replace --trust VENDOR.pub {home_option(home.path)}"
        )
    return key


def trust_problems(home: Home) -> list[str]:
    """Lists any faults of the trusted key's file."""
    try:
        trusted_key(home)
    except TrustError as error:
        return [error.message]
    return []


def write_trusted_key(home: Home, key: str) -> None:
    """Makes a home trust this key alone."""
    storage.write_file(home.trust, public_key_pem(key))


def key_to_trust(home: Home, trust: AnyPath | None) -> str | None:
    """Returns the public key that must match the base's signature: the given one, else the home's, else None.

    Raises:
        TrustError: That key cannot be read, or was altered.
    """
    return read_public_key(trust) if trust else trusted_key(home)


def require_signed_base(base: AnyPath, manifest: Manifest, key: str | None) -> None:
    """Refuses anything but a shipped base that the trusted vendor signed; without a key, refuses nothing.

    Raises:
        TrustError: The base is refused; every reason is listed.
    """
    if key is None:
        return
    problems = list(custody_problems(manifest, key, None))
    if manifest.increment_count:
        problems.append(
            f"it has been changed since it was shipped (changes: {manifest.increment_count}), but the vendor "
            "signed only the shipped base"
        )
    if problems:
        raise TrustError(
            f"{base} is not a base that the trusted vendor signed, so no home is made from it", problems
        )


def require_trusted_model(home: Home, manifest: Manifest) -> None:
    """Refuses to change a home whose record does not lead back to a base that the trusted vendor signed.

    A home made without a trusted key accepts any model.

    Raises:
        TrustError: The model is refused (every reason is listed), or the trusted key's file is faulty.
    """
    key = trusted_key(home)
    if key and (problems := custody_problems(manifest, key, None)):
        raise TrustError(
            f"the model in {home.path} does not verify against the key that the home trusts, so nothing "
            "is changed; start over from the vendor's base: "
            f"lwm-edge init BASE.lwm --replace {home_option(home.path)}",
            problems,
        )

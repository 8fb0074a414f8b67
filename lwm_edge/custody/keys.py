"""Makes and reads Ed25519 keys in PEM files, signs with them, and checks signatures.

Private keys are PKCS #8 files, public keys SubjectPublicKeyInfo (https://www.rfc-editor.org/rfc/rfc8410). The
file of a private key is written with mode 0600, and refused if anybody but its owner has access to it. A
private key is never printed, and never stored anywhere else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from .. import inspection, outputs, storage
from ..errors import ConfigError, TrustError
from ..model.custody_record import Signature
from ..records import AnyNamePath, AnyPath, Report

PRIVATE_SUFFIX, PUBLIC_SUFFIX = ".key", ".pub"
_PRIVATE_MODE = 0o600
_FIELD = 2**255 - 19
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_LOW_ORDER = {0, 1, _FIELD - 1, _EIGHTH, _FIELD - _EIGHTH}
"""The y coordinates of the curve's points of low order (at most 8)."""
_MAX_BYTES = 4096  # limit for a key file; an Ed25519 key takes 119 bytes


class KeyReport(Report):
    """Reports which files `generate_key` wrote, but does not hold the private key.

    Attributes:
        private_key_file: Path of the file to keep, readable by its owner alone.
        public_key_file: Path of the file to share.
        key: Public key in hexadecimal.
    """

    private_key_file: AnyNamePath
    public_key_file: AnyNamePath
    key: str


def generate_key(name: AnyPath) -> KeyReport:
    """Makes a key pair: NAME.key, readable by its owner alone, and NAME.pub.

    Args:
        name: Path of both files without their suffixes.

    Raises:
        ConfigError: One of the files already exists (a key is never overwritten), or cannot be written.
        HomeError: The operating system refused to write.
        ResourceError: The disk is full.
    """
    name = Path(name)
    if str(name) == outputs.STDOUT:
        raise ConfigError(f"{name} is standard output, but a key pair is two files; give them a name")
    if name.name in ("", ".."):
        raise ConfigError(f"{name} is a folder, but a key pair is two files; give them a name")
    private, public = (name.with_name(name.name + suffix) for suffix in (PRIVATE_SUFFIX, PUBLIC_SUFFIX))
    if taken := [str(path) for path in (private, public) if path.exists() or path.is_symlink()]:
        raise ConfigError(
            f"{' and '.join(taken)} already {'exists' if len(taken) == 1 else 'exist'}; a key is never "
            "overwritten, so choose another name"
        )
    for path in (private, public):
        outputs.check_output(path)
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    storage.write_file(private, content, mode=_PRIVATE_MODE, replace=False, of_user=True)
    storage.write_file(public, public_key_pem(public_key(key)), replace=False, of_user=True)
    return KeyReport(private_key_file=private, public_key_file=public, key=public_key(key))


def public_key(key: Ed25519PrivateKey) -> str:
    """Returns the public half of a key, in hexadecimal."""
    return key.public_key().public_bytes_raw().hex()


def public_key_pem(key: str) -> bytes:
    """Returns the content of a public key's file, whose length is always the same."""
    loaded = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    return loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_private_key(path: AnyPath) -> Ed25519PrivateKey:
    """Reads a private key.

    Raises:
        TrustError: The key is missing, is not an unencrypted Ed25519 key, or is accessible to other users.
    """
    content = _read(Path(path), private=True)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise TrustError(f"{path} is encrypted; use a key that lwm-edge keygen made") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TrustError(
            f"{path} is not a readable private key; use the .key file that lwm-edge keygen made"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError(f"{path} is not an Ed25519 key; use one that lwm-edge keygen made")
    return key


def read_public_key(path: AnyPath) -> str:
    """Reads a public key and returns it in hexadecimal.

    Raises:
        TrustError: The key is missing, is not an Ed25519 public key, or lets anyone forge signatures.
    """
    content = _read(Path(path), private=False)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise TrustError(
            f"{path} is not a readable public key; use the .pub file that lwm-edge keygen made"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise TrustError(f"{path} is not an Ed25519 key; use the .pub file that lwm-edge keygen made")
    if not proves_anything(key.public_bytes_raw()):
        raise TrustError(
            f"{path} is a key with which anyone can forge signatures; use the .pub file that lwm-edge keygen "
            "made"
        )
    return key.public_bytes_raw().hex()


def proves_anything(key: bytes) -> bool:
    """Tells whether only the holder of the private key can make signatures that match a public key.

    If the public key is a point of low order, anyone can make such signatures. Like libsodium, this refuses
    all of these points, and also any key that is not in canonical form (RFC 8032, section 5.1.3).
    """
    y = int.from_bytes(key, "little") & ~(1 << 255)
    return y < _FIELD and y not in _LOW_ORDER


def sign(key: Ed25519PrivateKey, statement: bytes) -> Signature:
    """Signs a statement."""
    return Signature(key=public_key(key), value=key.sign(statement).hex())


def signature_matches(signature: Signature, statement: bytes) -> bool:
    """Tells whether the signature's key signed this statement."""
    if not proves_anything(bytes.fromhex(signature.key)):
        return False
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.key))
    try:
        key.verify(bytes.fromhex(signature.value), statement)
    except InvalidSignature:
        return False
    return True


def _read(path: Path, *, private: bool) -> bytes:
    try:
        with inspection.open_regular(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES)
            if private and b"PRIVATE KEY" in content and mode & 0o077:
                raise TrustError(
                    f"{path} is accessible to others besides its owner (mode {mode:04o}), so others may "
                    f"have read it; make a new key or, if you know that nobody has, run: chmod 600 {path}"
                )
            return content
    except OSError as error:
        raise TrustError(f"the key {path} cannot be read: {error.strerror}") from None

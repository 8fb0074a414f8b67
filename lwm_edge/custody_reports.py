"""What keys, signing and verifying leave."""

from __future__ import annotations

from .reports import AnyNamePath, Report


class KeyReport(Report):
    """What `generate_key` wrote; never the secret.

    Attributes:
        private_key_file: To keep, readable by its owner alone.
        public_key_file: To give away.
        key: The public key, in hexadecimal.
    """

    private_key_file: AnyNamePath
    public_key_file: AnyNamePath
    key: str


class SigningReport(Report):
    """What `sign_bundle` signed.

    Attributes:
        bundle: The file, rewritten at the same length.
        bundle_bytes: Its length.
        model_digest: Of the model, as before.
        key: The vendor's public key, in hexadecimal.
    """

    bundle: AnyNamePath
    bundle_bytes: int
    model_digest: str
    key: str


class VerificationReport(Report):
    """What `verify` found. Nothing is proven unless it passed.

    Attributes:
        home: The home, unless a bundle was asked.
        bundle: The bundle.
        passed: Whether everything that was checked holds.
        problems: What does not.
        proven: What follows, in words.
        not_proven: What does not follow, in words.
        trusted_key: The vendor's public key that was verified against, in hexadecimal.
        trusted_key_file: Where it was read.
        base_digest: model_digest of the shipped base, as recorded.
        base_signed_by: The public key that the base's signature names.
        model_digest: Of the current model.
        changes: Since the base was shipped.
        links_recorded: Of them, how many the record still tells apart.
        links_signed: Of these, how many carry a device's signature.
        device_keys: The public keys that those name.
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

"""Signs a vendor's base."""

from __future__ import annotations

from pathlib import Path

from ..durability import require_safe_changes
from ..errors import ConfigError
from ..model.bundle import open_bundle, save_bundle
from ..model.custody_record import Custody
from ..outputs import check_output, write_output
from ..records import AnyNamePath, AnyPath, Report
from .chain import base_statement, base_text
from .keys import read_private_key, sign


class SigningReport(Report):
    """Reports what `sign_bundle` signed.

    Attributes:
        bundle: Path of the bundle, which was rewritten at the same length.
        bundle_bytes: Length of the bundle.
        model_digest: Digest of the model, which signing does not change.
        key: Public key of the vendor, in hexadecimal.
    """

    bundle: AnyNamePath
    bundle_bytes: int
    model_digest: str
    key: str


def sign_bundle(bundle: AnyPath, key: AnyPath) -> SigningReport:
    """Signs a shipped base with the vendor's private key.

    The signature goes into the manifest, so neither the file's length nor its model_digest changes. An
    earlier signature is replaced.

    Args:
        bundle: Path of the base, which is rewritten atomically.
        key: Path of the private key.

    Raises:
        BundleError: The bundle is damaged.
        ConfigError: The bundle was changed after it shipped, or cannot be written.
        TrustError: The key cannot be used.
        HomeError: Writing the bundle failed.
        ResourceError: The disk is full.
    """
    require_safe_changes("sign", Path(bundle))
    signer = read_private_key(key)
    opened = open_bundle(Path(bundle))
    manifest = opened.manifest
    if manifest.increment_count:
        times = "once" if manifest.increment_count == 1 else f"{manifest.increment_count} times"
        raise ConfigError(
            f"{bundle} has been changed {times} since it was shipped; sign the base as it was shipped"
        )
    check_output(opened.path)
    statement = base_statement(manifest)
    signature = sign(signer, base_text(statement))
    custody = Custody(base=statement, base_signature=signature)
    save_bundle(opened.path, opened.arrays(), manifest.model_copy(update={"custody": custody}), write_output)
    return SigningReport(
        bundle=opened.path,
        bundle_bytes=manifest.bundle_bytes,
        model_digest=manifest.model_digest,
        key=signature.key,
    )

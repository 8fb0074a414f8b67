"""`verify` says what is proven and what is not, and proves nothing if anything is wrong."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from lwm_edge import (
    VerificationReport,
    add_classes,
    generate_key,
    init_home,
    remove_class,
    rename_class,
    sign_bundle,
    undo,
    verify,
)
from lwm_edge.custody.chain import record_change
from lwm_edge.custody.keys import proves_anything, read_public_key, signature_matches
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import BundleError, HomeError, TrustError
from lwm_edge.home.home import Home, open_home
from lwm_edge.model.bundle import Bundle, open_bundle, save_bundle
from lwm_edge.model.custody_record import LINKS_KEPT, Signature
from lwm_edge.model.onnx.graph import fill_graph
from lwm_edge.proofs import verification
from tests.support.failing_disk import refuse
from tests.support.folders import Keys, PhotoMaker, photo_folder, state_of
from tests.support.samples import QUICK

LDA = QUICK.model_copy(update={"recipe": "lda"})


@pytest.fixture(scope="module")
def grown_once(shipped_trusting_home: Path, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a home with two signed changes (an increment and a removal), to be copied."""
    folder = tmp_path_factory.mktemp("grown")
    home = shutil.copytree(shipped_trusting_home, folder / "home", symlinks=True)
    photos = photo_folder(folder / "new_photos", {"Bag": "Bag", "Shirt": "Shirt"})
    add_classes(home, photos, LDA.model_copy(update={"sign_with": keys.device_key}), isolate=False)
    remove_class(home, "Bag", sign_with=keys.device_key)
    return home


@pytest.fixture
def grown(grown_once: Path, tmp_path: Path) -> Home:
    return open_home(shutil.copytree(grown_once, tmp_path / "grown", symlinks=True))


def _says(lines: tuple[str, ...], *texts: str) -> bool:
    return all(any(text in line for line in lines) for text in texts)


def _failed(report: VerificationReport) -> tuple[str, ...]:
    assert not report.passed and report.proven == ()
    assert report.not_proven == ("Everything about this model: the verification failed.",)
    return report.problems


def test_a_shipped_base(keys: Keys) -> None:
    report = verify(keys.base, trust=keys.vendor_pub)
    assert report.passed and report.problems == () and report.home is None
    assert report.trusted_key == report.base_signed_by == read_public_key(keys.vendor_pub)
    assert report.base_digest == report.model_digest and report.changes == 0
    assert _says(report.proven, "signed the base", "This model is that base, unchanged.")
    assert _says(report.not_proven, "What the base was trained on", "an older copy", "only you can know")


def test_a_fresh_home(trusting_home: Home) -> None:
    report = verify(trusting_home)
    assert report.passed and report.trusted_key_file == trusting_home.trust
    assert _says(report.proven, "unchanged", "classifier.onnx is, byte for byte")
    assert _says(report.not_proven, "whoever can change the home can change this key too")


def test_signed_changes_and_the_devices_key(grown: Home, keys: Keys) -> None:
    report = verify(grown, trust=keys.vendor_pub, device_key=keys.device_pub)
    assert report.passed
    assert (report.changes, report.links_recorded, report.links_signed) == (2, 2, 2)
    assert report.device_keys == (read_public_key(keys.device_pub),)
    assert report.base_digest == open_bundle(BASE_BUNDLE).manifest.model_digest != report.model_digest
    assert _says(
        report.proven,
        "names and order of the shipped classes, are still those that were signed",
        "lists changes 1, 2 without a gap, from that base up to this model",
        "A holder of the device's private key signed changes 1, 2",
    )
    assert _says(report.not_proven, "What the changes did to the weights", "What changes 1, 2 learnt")
    assert not _says(report.not_proven, "Whose key signed") and not _says(report.proven, "unchanged")


def test_signed_changes_without_the_devices_key(grown: Home) -> None:
    report = verify(grown)
    assert report.passed and not _says(report.proven, "device's private key")
    assert _says(report.not_proven, "Whose key signed changes 1, 2: pass the device's")


def test_unsigned_changes_are_claims(trusting_home: Home, keys: Keys, make_photos: PhotoMaker) -> None:
    add_classes(trusting_home, make_photos("Bag"), LDA, isolate=False)
    report = verify(trusting_home)
    assert report.passed and report.links_signed == 0
    assert _says(
        report.not_proven, "Who made change 1: without a signature, it could be anyone who can write"
    )
    problems = _failed(verify(trusting_home, device_key=keys.device_pub))
    assert problems == ("change 1 is not signed",)


def test_shipped_classes_that_were_removed(trusting_home: Home) -> None:
    remove_class(trusting_home, "Coat", shipped=True)
    report = verify(trusting_home)
    assert report.passed and not _says(report.proven, "names and order")
    assert _says(report.not_proven, "What the shipped classes are called")


def test_shipped_classes_that_were_renamed_or_came_back(
    keys: Keys, permitting_base: Path, tmp_path: Path
) -> None:
    base = shutil.copy(permitting_base, tmp_path / "base.lwm")
    sign_bundle(base, keys.vendor_key)
    init_home(base, tmp_path / "home", trust=keys.vendor_pub)
    rename_class(tmp_path / "home", "Coat", "Mantel", sign_with=keys.device_key)
    remove_class(tmp_path / "home", "Mantel", shipped=True, sign_with=keys.device_key)
    undo(tmp_path / "home", sign_with=keys.device_key)  # refused unless the model verifies
    report = verify(tmp_path / "home", device_key=keys.device_pub)
    assert report.passed and report.links_signed == 3
    assert _says(report.proven, "Mantel is the class that the vendor signed as Coat.")
    assert _says(report.proven, "names and order of the shipped classes, but for those that were renamed,")


def test_a_long_history_in_a_file_of_the_same_length(grown: Home, keys: Keys) -> None:
    bundle, length = grown.open_bundle(), grown.current().bundle.stat().st_size
    manifest = bundle.manifest
    for number in range(3, 41):  # the tensors stay, as after a removal that was undone
        changed = manifest.model_copy(
            update={"increment_count": number, "parent_digest": manifest.model_digest}
        )
        manifest = record_change(changed, manifest, None)
    save_bundle(grown.current().bundle, bundle.arrays(), manifest)
    assert grown.current().bundle.stat().st_size == length
    report = verify(grown.current().bundle, trust=keys.vendor_pub)
    assert report.passed and (report.changes, report.links_recorded) == (40, LINKS_KEPT)
    assert _says(report.proven, "lists changes 33, 34") and not _says(report.proven, "from that base up")
    assert _says(
        report.not_proven,
        "That the first 32 changes go back to the signed base: the bundle no longer lists them.",
    )


def test_without_a_key_nothing_is_proven(home: Home, keys: Keys) -> None:
    for source in (home, keys.base, BASE_BUNDLE):
        problems = _failed(verify(source))
        assert problems == ("there is no key to verify against: pass the vendor's with --trust vendor.pub",)


def test_a_key_other_than_the_homes_own_is_a_problem(trusting_home: Home, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other")
    problems = _failed(verify(trusting_home, trust=other.public_key_file))
    assert _says(problems, "the home trusts the key", "not with the trusted")
    problems = _failed(verify(trusting_home.current().bundle, trust=other.public_key_file))
    assert len(problems) == 1


def test_a_home_made_without_trust_verifies_against_a_key_that_is_given(keys: Keys, tmp_path: Path) -> None:
    init_home(keys.base, tmp_path / "home")
    assert verify(tmp_path / "home", trust=keys.vendor_pub).passed
    init_home(BASE_BUNDLE, tmp_path / "home", replace=True)
    assert _failed(verify(tmp_path / "home", trust=keys.vendor_pub)) == ("the base is not signed",)


def test_the_file_that_apps_load_is_compared(grown: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        refuse("classifier.onnx", errno.EIO, context)
        assert _failed(verify(grown)) == ("classifier.onnx cannot be read (Input/output error)",)
    onnx = grown.current().onnx
    content = onnx.read_bytes()
    onnx.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert _says(_failed(verify(grown)), "classifier.onnx does not match the bundle")
    onnx.unlink()
    assert _says(_failed(verify(grown)), "classifier.onnx is missing")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_flipped_bits_prove_nothing(keys: Keys, tmp_path: Path, place: float) -> None:
    content = bytearray(keys.base.read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / "base.lwm").write_bytes(content)
    with pytest.raises(TrustError, match="nothing is proven"):
        verify(tmp_path / "base.lwm", trust=keys.vendor_pub)


def test_a_missing_home_bundle_or_key_is_an_error(tmp_path: Path, keys: Keys) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        verify(tmp_path / "none.lwm", trust=keys.vendor_pub)
    with pytest.raises(HomeError):
        verify(tmp_path, trust=keys.vendor_pub)
    with pytest.raises(TrustError, match="cannot be read"):
        verify(keys.base, trust=tmp_path / "none.pub")
    with pytest.raises(TrustError, match="cannot be read"):
        verify(keys.base, trust=keys.vendor_pub, device_key=tmp_path / "none.pub")


def test_verify_only_reads_and_needs_no_torch(grown: Home, keys: Keys) -> None:
    before = state_of(grown.path)
    code = (
        "import sys, lwm_edge\n"
        f"assert lwm_edge.verify({str(grown.path)!r}, device_key={str(keys.device_pub)!r}).passed\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert state_of(grown.path) == before


def test_an_older_copy_verifies_as_well(trusting_home: Home, tmp_path: Path) -> None:
    """No record inside a file can say whether it is the newest, so the report lists that as not proven."""
    older = Path(shutil.copytree(trusting_home.path, tmp_path / "older", symlinks=True))
    remove_class(trusting_home, "Coat", shipped=True)
    shutil.rmtree(trusting_home.path)
    older.rename(trusting_home.path)
    report = verify(trusting_home)
    assert report.passed and _says(report.not_proven, "That this is the newest model")


def test_a_bundle_that_is_replaced_after_it_was_opened_proves_nothing(
    grown: Home, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home whose ONNX file fits only the second bundle, which nobody verified, must not pass."""
    generation, manifest = grown.current(), grown.open_bundle().manifest
    other = keys.base.read_bytes()
    generation.onnx.write_bytes(fill_graph(open_bundle(keys.base).arrays(), manifest))

    def open_and_exchange(path: Path) -> Bundle:
        bundle = open_bundle(path)
        path.write_bytes(other)
        return bundle

    monkeypatch.setattr(verification, "open_bundle", open_and_exchange)
    problems = _failed(verify(grown, trust=keys.vendor_pub, device_key=keys.device_pub))
    assert _says(problems, "classifier.onnx does not match the bundle")


LOW_ORDER = [
    *(bytes([y, *[0] * 31]) for y in (0, 1)),
    *((2**255 - 19 + n).to_bytes(32, "little") for n in (-1, 0, 1)),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


@pytest.mark.parametrize(
    "key", [*LOW_ORDER, *(bytes([*k[:-1], k[-1] | 0x80]) for k in LOW_ORDER)], ids=bytes.hex
)
def test_a_key_with_which_anyone_can_forge_signatures_is_refused(tmp_path: Path, key: bytes) -> None:
    assert not proves_anything(key)
    signature = Signature(key=key.hex(), value="01" + "00" * 63)  # R is the neutral point, and S is 0
    assert not any(signature_matches(signature, b"statement %d" % n) for n in range(8))
    (tmp_path / "key.pub").write_bytes(
        b"-----BEGIN PUBLIC KEY-----\n"
        + b64encode(bytes.fromhex("302a300506032b6570032100") + key)
        + b"\n-----END PUBLIC KEY-----\n"
    )
    with pytest.raises(TrustError, match=r"anyone can forge|not a readable public key"):
        read_public_key(tmp_path / "key.pub")

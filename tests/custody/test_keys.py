"""Private keys are readable by their owner alone; no key is overwritten, and faulty keys are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from lwm_edge import generate_key
from lwm_edge.custody.keys import (
    public_key,
    public_key_pem,
    read_private_key,
    read_public_key,
    sign,
    signature_matches,
)
from lwm_edge.errors import ConfigError, HomeError, TrustError
from lwm_edge.storage import write_file
from tests.support.folders import state_of


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    report = generate_key(tmp_path / "device")
    return report.private_key_file, report.public_key_file


def test_the_two_keys_of_a_pair_match(pair: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = pair
    assert (private, public) == (tmp_path / "device.key", tmp_path / "device.pub")
    assert public_key(read_private_key(private)) == read_public_key(public)
    assert b"BEGIN PRIVATE KEY" in private.read_bytes() and b"BEGIN PUBLIC KEY" in public.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device.key", "device.pub"]


def test_a_dot_in_the_name_is_kept(tmp_path: Path) -> None:
    assert generate_key(tmp_path / "line.7").private_key_file == tmp_path / "line.7.key"


def test_pairs_differ_but_their_files_have_the_same_length(tmp_path: Path) -> None:
    reports = [generate_key(tmp_path / str(n)) for n in range(20)]
    assert len({report.key for report in reports}) == 20
    assert {report.private_key_file.stat().st_size for report in reports} == {119}
    assert {report.public_key_file.stat().st_size for report in reports} == {113}


def test_the_secret_is_not_in_the_report(tmp_path: Path) -> None:
    report = generate_key(tmp_path / "device")
    raw = read_private_key(report.private_key_file).private_bytes_raw().hex()
    body = report.private_key_file.read_text().splitlines()[1]
    for text in (repr(report), report.model_dump_json()):
        assert raw not in text and body not in text


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_there_is_no_moment_when_others_can_read_a_private_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    modes = []
    synced = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    before = os.umask(umask)
    try:
        report = generate_key(tmp_path / "device")
    finally:
        os.umask(before)
    assert modes == [0o600, 0o664 & ~umask]
    assert _mode(report.private_key_file) == 0o600


@pytest.mark.parametrize("existing", ["device.key", "device.pub"])
@pytest.mark.parametrize("dangling", [True, False])
def test_a_key_is_never_overwritten(tmp_path: Path, existing: str, dangling: bool) -> None:
    if dangling:
        (tmp_path / existing).symlink_to("nowhere")
    else:
        (tmp_path / existing).write_text("precious")
    before = state_of(tmp_path)
    with pytest.raises(ConfigError, match=f"{existing} already"):
        generate_key(tmp_path / "device")
    assert state_of(tmp_path) == before


def test_a_key_is_not_overwritten_even_in_a_race(tmp_path: Path) -> None:
    (tmp_path / "device.key").write_text("precious")
    with pytest.raises(HomeError, match="File exists"):
        write_file(tmp_path / "device.key", b"new", replace=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"device.key": "precious"}


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_folder_is_no_name_for_a_key(name: str) -> None:
    with pytest.raises(ConfigError, match="give them a name"):
        generate_key(name)


def test_a_key_cannot_be_made_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in a folder that exists"):
        generate_key(tmp_path / "none" / "device")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o610, 0o666, 0o777])
def test_a_private_key_that_others_can_access_is_refused(pair: tuple[Path, Path], mode: int) -> None:
    pair[0].chmod(mode)
    with pytest.raises(TrustError, match=f"{mode:04o}.*chmod 600 {pair[0]}"):
        read_private_key(pair[0])


def test_a_private_key_that_even_its_owner_cannot_write_is_fine(pair: tuple[Path, Path]) -> None:
    pair[0].chmod(0o400)
    assert public_key(read_private_key(pair[0])) == read_public_key(pair[1])


@pytest.mark.parametrize("length", [0, 1, 27, 40, 80, 100])
def test_truncated_keys_are_refused(pair: tuple[Path, Path], length: int) -> None:
    for path, read in zip(pair, (read_private_key, read_public_key), strict=True):
        content = path.read_bytes()
        path.write_bytes(content[:length])
        with pytest.raises(TrustError, match="not a readable") as caught:
            read(path)
        assert content.splitlines()[1].decode() not in str(caught.value)


def test_swapped_or_missing_keys_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pair[1].chmod(0o644)  # as keygen makes it; whoever may read it is no reason to refuse it
    with pytest.raises(TrustError, match=r"not a readable private key; use the \.key file"):
        read_private_key(pair[1])
    with pytest.raises(TrustError, match="not a readable public key"):
        read_public_key(pair[0])
    for read in (read_private_key, read_public_key):
        with pytest.raises(TrustError, match="cannot be read: No such file"):
            read(tmp_path / "none")
        with pytest.raises(TrustError, match="cannot be read: Is a directory"):
            read(tmp_path)


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    key = Ed448PrivateKey.generate()
    path = tmp_path / "other"
    write_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    with pytest.raises(TrustError, match="not an Ed25519 key"):
        read_private_key(path)
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(TrustError, match="not an Ed25519 key"):
        read_public_key(path)


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    encryption = BestAvailableEncryption(b"secret")
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_file(tmp_path / "vendor.key", pem, mode=0o600)
    with pytest.raises(TrustError, match="is encrypted"):
        read_private_key(tmp_path / "vendor.key")


def test_a_signature_matches_only_its_own_statement_and_key(pair: tuple[Path, Path]) -> None:
    key, other = read_private_key(pair[0]), Ed25519PrivateKey.generate()
    signature = sign(key, b"statement")
    assert signature.key == read_public_key(pair[1])
    assert signature_matches(signature, b"statement")
    assert not signature_matches(signature, b"Statement")
    assert not signature_matches(signature.model_copy(update={"key": public_key(other)}), b"statement")
    assert not signature_matches(
        signature.model_copy(update={"value": sign(other, b"statement").value}), b"statement"
    )
    for key_bytes in ("00" * 32, "ff" * 32):  # neither is a usable key, and neither causes a crash
        assert not signature_matches(signature.model_copy(update={"key": key_bytes}), b"statement")


def test_a_public_key_is_written_exactly_as_it_was_read(pair: tuple[Path, Path]) -> None:
    assert public_key_pem(read_public_key(pair[1])) == pair[1].read_bytes()

"""A home that trusts a key takes only bases signed with it, and changes no model that does not verify."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lwm_edge import (
    add_classes,
    audit,
    generate_key,
    init_home,
    remove_class,
    rename_class,
    sign_bundle,
    storage,
)
from lwm_edge.custody.keys import read_public_key
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import HomeError, TrustError
from lwm_edge.home.home import Home, open_home
from lwm_edge.model.bundle import open_bundle, save_bundle
from lwm_edge.model.manifest import Manifest
from lwm_edge.model.tensors import declared_tensors
from tests.support.folders import Keys, PhotoMaker, state_of
from tests.support.samples import QUICK

Arrays = dict[str, NDArray[Any]]
LDA = QUICK.model_copy(update={"recipe": "lda"})


def _save_changed(source: Path, target: Path, change: Callable[[Arrays, Manifest], dict[str, Any]]) -> Path:
    """Saves a changed copy of a bundle, with digests that all match again."""
    bundle = open_bundle(source)
    arrays = dict(bundle.arrays())
    update = change(arrays, bundle.manifest)
    save_bundle(target, arrays, bundle.manifest.model_copy(update=update))
    open_bundle(target)
    return target


def _other_weights(arrays: Arrays, manifest: Manifest) -> dict[str, Any]:
    arrays["head.weight"][0, 0] += 1
    return {}


def _other_graph(arrays: Arrays, manifest: Manifest) -> dict[str, Any]:
    arrays["onnx_graph"][-1] ^= 1
    return {}


def _other_capacity(arrays: Arrays, manifest: Manifest) -> dict[str, Any]:
    for name, (_, shape) in declared_tensors(33, arrays["head.weight"].shape[1]).items():
        grown = np.zeros(shape, arrays[name].dtype)
        grown[tuple(map(slice, arrays[name].shape))] = arrays[name]
        arrays[name] = grown
    return {"capacity": 33, "bundle_bytes": 0}


def _other_class_name(arrays: Arrays, manifest: Manifest) -> dict[str, Any]:
    return {"class_names": ("Boat", *manifest.class_names[1:])}


def _without_signature(arrays: Arrays, manifest: Manifest) -> dict[str, Any]:
    assert manifest.custody
    return {"custody": manifest.custody.model_copy(update={"base_signature": None})}


def _other_preprocessing(arrays: Arrays, manifest: Manifest) -> dict[str, Any]:
    return {"preprocessing": manifest.preprocessing.model_copy(update={"mean": (0.0, 0.0, 0.0)})}


ALTERED: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "tensors": (_other_weights, "the model (tensors, class names, preprocessing, levels) does not match"),
    "ONNX graph": (_other_graph, "the model (tensors, class names, preprocessing, levels) does not match"),
    "class names": (_other_class_name, "the names of the shipped classes"),
    "preprocessing": (_other_preprocessing, "the preprocessing or the head's inputs do not match"),
    "capacity": (_other_capacity, "capacity is 33"),
    "activation": (lambda arrays, manifest: {"activation": "softmax"}, "activation is softmax"),
    "architecture": (lambda arrays, manifest: {"architecture": "small_resnet32"}, "architecture is small_"),
    "shipped_classes": (lambda arrays, manifest: {"shipped_classes": 5}, "shipped_classes is 5"),
    "signature": (_without_signature, "the base is not signed"),
    "changes": (lambda arrays, manifest: {"increment_count": 1}, "since it was shipped (changes: 1)"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_base_makes_no_home(keys: Keys, tmp_path: Path, what: str) -> None:
    change, problem = ALTERED[what]
    altered = _save_changed(keys.base, tmp_path / "altered.lwm", change)
    with pytest.raises(TrustError, match="not a base that the trusted vendor signed") as caught:
        init_home(altered, tmp_path / "home", trust=keys.vendor_pub)
    assert any(problem in found for found in caught.value.problems), caught.value.problems
    assert not (tmp_path / "home").exists()


def test_an_unsigned_base_and_a_base_signed_by_a_stranger_make_no_home(keys: Keys, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="the base is not signed"):
        init_home(BASE_BUNDLE, tmp_path / "home", trust=keys.vendor_pub)
    stranger = generate_key(tmp_path / "stranger")
    theirs = Path(shutil.copy(BASE_BUNDLE, tmp_path / "theirs.lwm"))
    sign_bundle(theirs, stranger.private_key_file)
    with pytest.raises(TrustError, match=stranger.key):
        init_home(theirs, tmp_path / "home", trust=keys.vendor_pub)
    with pytest.raises(TrustError, match="not a readable public key"):
        init_home(keys.base, tmp_path / "home", trust=keys.base)
    assert not (tmp_path / "home").exists()


def test_a_base_swapped_while_the_home_is_made_is_refused(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copy(keys.base, tmp_path / "base.lwm"))
    altered = _save_changed(keys.base, tmp_path / "altered.lwm", _other_weights)

    def open_then_swap(path: Path) -> Any:
        bundle = open_bundle(path)
        shutil.copy(altered, base)
        return bundle

    monkeypatch.setattr("lwm_edge.home.changes.open_bundle", open_then_swap)
    with pytest.raises(TrustError, match="not a base that the trusted vendor signed"):
        init_home(base, tmp_path / "home", trust=keys.vendor_pub)
    with pytest.raises(HomeError):
        open_home(tmp_path / "home")


def test_the_home_keeps_the_key_in_a_file_of_fixed_length(keys: Keys, trusting_home: Home) -> None:
    assert trusting_home.trust.read_bytes() == keys.vendor_pub.read_bytes()
    report = audit(trusting_home)
    assert report.passed and report.bytes_by_owner()["trusted key"] == 113


def test_an_altered_key_is_refused_with_the_whole_command_that_sets_it_again(trusting_home: Home) -> None:
    trusting_home.trust.write_bytes(trusting_home.trust.read_bytes() + b"\n")
    with pytest.raises(
        TrustError, match=r"was altered.* lwm-edge init BASE\.lwm --replace --trust VENDOR\.pub"
    ):
        rename_class(trusting_home, "Coat", "Mantel")


def test_a_home_started_over_still_demands_the_key(keys: Keys, trusting_home: Home, tmp_path: Path) -> None:
    before = state_of(trusting_home.path)
    with pytest.raises(TrustError):
        init_home(BASE_BUNDLE, trusting_home.path, replace=True)
    assert state_of(trusting_home.path) == before
    report = init_home(keys.base, trusting_home.path, replace=True)
    assert report.trusted_key == read_public_key(keys.vendor_pub)

    other = generate_key(tmp_path / "other")
    base = Path(shutil.copy(BASE_BUNDLE, tmp_path / "other.lwm"))
    sign_bundle(base, other.private_key_file)
    init_home(base, trusting_home.path, replace=True, trust=other.public_key_file)
    with pytest.raises(TrustError):
        init_home(keys.base, trusting_home.path, replace=True)


def test_a_home_without_trust_takes_any_base(keys: Keys, tmp_path: Path) -> None:
    for base in (BASE_BUNDLE, keys.base):
        assert init_home(base, tmp_path / "home", replace=True).trusted_key is None
    assert not open_home(tmp_path / "home").trust.exists()


def test_an_interrupted_init_leaves_a_home_that_already_demands_the_key(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    shutil.copy(keys.vendor_pub, tmp_path / "home" / "vendor.pub")
    (tmp_path / "home" / "lock").touch()
    storage.staged_path(tmp_path / "home" / "vendor.pub").write_bytes(b"half")
    with pytest.raises(TrustError):
        init_home(BASE_BUNDLE, tmp_path / "home")
    init_home(keys.base, tmp_path / "home")
    assert audit(tmp_path / "home").passed


@pytest.mark.parametrize("length", [0, 1, 50, 112])
def test_a_truncated_key_in_the_home_is_found_and_blocks_changes(trusting_home: Home, length: int) -> None:
    content = trusting_home.trust.read_bytes()
    trusting_home.trust.write_bytes(content[:length])
    _assert_blocked(trusting_home)


def test_more_bytes_after_the_key_or_a_link_in_its_place_block_changes(
    trusting_home: Home, keys: Keys
) -> None:
    trusting_home.trust.write_bytes(trusting_home.trust.read_bytes() + b"pixels")
    _assert_blocked(trusting_home)
    trusting_home.trust.unlink()
    trusting_home.trust.symlink_to(keys.vendor_pub)
    _assert_blocked(trusting_home)
    trusting_home.trust.unlink()
    trusting_home.trust.symlink_to("nowhere")
    with pytest.raises(TrustError):
        remove_class(trusting_home, "Coat", shipped=True)


def _assert_blocked(home: Home) -> None:
    with pytest.raises(TrustError, match=r"vendor\.pub"):
        remove_class(home, "Coat", shipped=True)
    with pytest.raises(TrustError, match=r"vendor\.pub"):
        init_home(BASE_BUNDLE, home.path, replace=True)
    found = audit(home)
    assert not found.passed and any("vendor.pub" in problem for problem in found.problems)


def test_a_model_that_does_not_verify_is_not_changed(
    trusting_home: Home, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    current = trusting_home.current().bundle
    _save_changed(current, current, _other_weights)
    before = state_of(trusting_home.path)
    with pytest.raises(TrustError, match="nothing is changed"):
        add_classes(trusting_home, tmp_path / "no photos are looked for", LDA, isolate=False)
    with pytest.raises(TrustError, match="nothing is changed"):
        remove_class(trusting_home, "Coat", shipped=True)
    assert state_of(trusting_home.path) == before


@pytest.mark.slow
def test_without_a_usable_signing_key_no_photo_is_looked_at(
    trusting_home: Home, keys: Keys, tmp_path: Path, make_photos: PhotoMaker
) -> None:
    readable = tmp_path / "device.key"
    shutil.copy(keys.device_key, readable)
    readable.chmod(0o640)
    before = state_of(trusting_home.path)
    for path, problem in ((readable, "chmod 600"), (tmp_path / "none.key", "cannot be read")):
        config = LDA.model_copy(update={"sign_with": path})
        for isolate in (True, False):
            with pytest.raises(TrustError, match=problem):
                add_classes(trusting_home, tmp_path / "no photos", config, isolate=isolate)
        with pytest.raises(TrustError, match=problem):
            remove_class(trusting_home, "Coat", shipped=True, sign_with=path)
    assert state_of(trusting_home.path) == before


@pytest.mark.slow
def test_the_private_key_is_nowhere_in_the_home(
    trusting_home: Home, keys: Keys, make_photos: PhotoMaker
) -> None:
    config = LDA.model_copy(update={"sign_with": keys.device_key})
    report = add_classes(trusting_home, make_photos("Bag"), config)
    body = keys.device_key.read_bytes().splitlines()[1]
    for path in trusting_home.path.rglob("*"):
        assert not path.is_file() or body not in path.read_bytes()
    assert os.fsencode(keys.device_key) not in trusting_home.current().receipt.read_bytes()
    assert body.decode() not in report.model_dump_json()

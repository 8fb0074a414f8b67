"""Each signature covers what it should, and alterations of the record are found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from lwm_edge import generate_key, sign_bundle
from lwm_edge.custody.chain import base_statement, base_text, custody_problems, make_deed, record_change
from lwm_edge.custody.keys import public_key, sign
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import BundleError, ConfigError, TrustError
from lwm_edge.model import manifest as manifests
from lwm_edge.model.bundle import open_bundle, save_bundle
from lwm_edge.model.custody_record import LAST_SECOND, LINKS_KEPT, Custody, Deed, Link, Signature
from lwm_edge.model.ledger import LEDGER_LENGTH, Ledger, LedgerEntry
from lwm_edge.model.manifest import Levels, Manifest, ShippedName
from lwm_edge.photos.preprocessing import Preprocessing
from tests.support.folders import state_of
from tests.support.networks import same_tensors

VENDOR = Ed25519PrivateKey.from_private_bytes(b"v" * 32)
DEVICE = Ed25519PrivateKey.from_private_bytes(b"d" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
VENDOR_KEY, DEVICE_KEY = public_key(VENDOR), public_key(DEVICE)
PREPROCESSING = Preprocessing(image_size=64, resize_size=72, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))


def _base(**changes: Any) -> Manifest:
    """Makes a base of two classes, signed by the vendor unless another signer is given."""
    signer = changes.pop("signer", VENDOR)
    fields: dict[str, Any] = {
        "architecture": "resnet18",
        "preprocessing": PREPROCESSING,
        "activation": "sigmoid",
        "class_names": ("Coat", "Dress"),
        "shipped_classes": 2,
        "capacity": 64,
        "bundle_bytes": 1000,
        "recipe": "base",
        "tensors_digest": "0" * 64,
    }
    manifest = Manifest(**(fields | changes))
    statement = base_statement(manifest)
    custody = Custody(base=statement, base_signature=sign(signer, base_text(statement)))
    return manifest.model_copy(update={"custody": custody})


def _grown(parent: Manifest, changes: int, key: Ed25519PrivateKey | None = DEVICE) -> Manifest:
    """Makes the manifest after several increments of one class each."""
    for _ in range(changes):
        number = parent.increment_count + 1
        grown = parent.model_copy(
            update={
                "class_names": (*parent.class_names, f"class {number}"),
                "tensors_digest": f"{number:064x}",
                "parent_digest": parent.model_digest,
                "increment_count": number,
            }
        )
        parent = record_change(grown, parent, key)
    return parent


def _problems(manifest: Manifest) -> tuple[str, ...]:
    return custody_problems(manifest, VENDOR_KEY, DEVICE_KEY)


# Signing a bundle


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return generate_key(tmp_path / "vendor").private_key_file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copy(BASE_BUNDLE, tmp_path / "base.lwm"))


def test_signing_changes_neither_length_nor_digest_nor_tensors(base: Path, key: Path) -> None:
    before = open_bundle(base)
    arrays, length = before.arrays(), base.stat().st_size
    report = sign_bundle(base, key)
    after = open_bundle(base)
    assert base.stat().st_size == length == report.bundle_bytes
    assert after.manifest.model_digest == before.manifest.model_digest == report.model_digest
    assert same_tensors(after.arrays(), arrays)
    assert after.manifest.model_copy(update={"custody": None}) == before.manifest
    assert custody_problems(after.manifest, report.key, None) == ()


def test_signing_again_replaces_the_signature(base: Path, key: Path, tmp_path: Path) -> None:
    sign_bundle(base, key)
    first = base.read_bytes()
    sign_bundle(base, key)
    assert base.read_bytes() == first
    other = generate_key(tmp_path / "other")
    sign_bundle(base, other.private_key_file)
    assert custody_problems(open_bundle(base).manifest, other.key, None) == ()


@pytest.mark.parametrize(("changes", "times"), [(1, "once"), (3, "3 times")])
def test_a_changed_model_cannot_be_signed_as_a_base(base: Path, key: Path, changes: int, times: str) -> None:
    bundle = open_bundle(base)
    save_bundle(base, bundle.arrays(), bundle.manifest.model_copy(update={"increment_count": changes}))
    before = base.read_bytes()
    with pytest.raises(ConfigError, match=f"changed {times} since"):
        sign_bundle(base, key)
    assert base.read_bytes() == before


def test_a_bundle_that_cannot_be_signed_is_left_alone(base: Path, key: Path, tmp_path: Path) -> None:
    key.chmod(0o644)
    before = state_of(tmp_path)
    with pytest.raises(TrustError, match="chmod 600"):
        sign_bundle(base, key)
    assert state_of(tmp_path) == before
    key.chmod(0o600)
    base.write_bytes(base.read_bytes()[:-1])
    with pytest.raises(BundleError):
        sign_bundle(base, key)


def test_statements_are_the_same_in_every_release() -> None:
    """Ed25519 is deterministic: if a statement changed, signatures of earlier releases would not match it."""
    manifest = _grown(_base(), 1)
    assert manifest.custody and manifest.custody.base_signature and manifest.custody.links[0].signature
    assert manifest.custody.base_signature.value == BASE_SIGNATURE
    assert manifest.custody.links[0].signature.value == LINK_SIGNATURE


BASE_SIGNATURE = (
    "02173f8b1fbf9d115bcb17905df141ff107239db56fab222e25592b4ec799add"
    "8de20c0405616907c3b11b318de89d2becc9dc09fe599a452fda412b3bdf7304"
)
LINK_SIGNATURE = (
    "4966e66938ec9a10df610cdcd3fdbe98a684b76a41ec016cd800118a74f0aca9"
    "39b5c51bcbc73d7d7d7ccec94d072b4d816f039566b5a4f331bd6bb7e47ad10c"
)


# The record


@pytest.mark.parametrize("changes", [0, 1, 2, 16, 17, 40])
def test_an_unaltered_record_has_no_problems(changes: int) -> None:
    manifest = _grown(_base(), changes)
    assert manifest.custody
    assert _problems(manifest) == ()
    assert len(manifest.custody.links) == min(changes, LINKS_KEPT)
    assert manifest.custody.dropped_links == max(0, changes - LINKS_KEPT)
    assert manifests.decode(manifests.encode(manifest), "model.lwm") == manifest


def test_removing_a_shipped_class_is_a_change_like_any_other() -> None:
    grown = _grown(_base(), 1)
    less = grown.model_copy(
        update={
            "class_names": grown.class_names[1:],
            "shipped_classes": 1,
            "parent_digest": grown.model_digest,
            "increment_count": 2,
        }
    )
    assert _problems(record_change(less, grown, DEVICE)) == ()


def test_a_record_can_begin_after_unrecorded_changes() -> None:
    late = _base().model_copy(update={"custody": None, "increment_count": 5, "parent_digest": "a" * 64})
    grown = _grown(late, 2)
    assert grown.custody and grown.custody.base is None and grown.custody.dropped_links == 5
    assert custody_problems(grown, None, DEVICE_KEY) == ()
    assert custody_problems(grown, VENDOR_KEY, None) == ("the base is not signed",)


def test_an_unsigned_base_is_recorded_at_its_first_change() -> None:
    unsigned = _base().model_copy(update={"custody": None})
    grown = _grown(unsigned, 1, key=None)
    assert grown.custody and grown.custody.base == base_statement(unsigned)
    assert custody_problems(grown, None, None) == ()
    assert custody_problems(grown, VENDOR_KEY, None) == ("the base is not signed",)
    assert custody_problems(grown, None, DEVICE_KEY) == ("change 1 is not signed",)


@pytest.mark.parametrize("capacity", [1, 32, 256, 1000])
def test_the_longest_record_fits_beside_the_longest_names_and_ledger(capacity: int) -> None:
    names = tuple(f"{n:04}" + "\u00e9" * 30 for n in range(capacity))
    assert {len(name.encode()) for name in names} == {64}
    huge = 2**53 - 1
    entry = LedgerEntry.model_validate(dict.fromkeys(LedgerEntry.model_fields, huge) | {"seconds": 1e9 / 3})
    signature = Signature(key="a" * 64, value="b" * 128)
    link = Link(
        increment=huge,
        parent_digest="c" * 64,
        model_digest="d" * 64,
        shipped_classes=capacity,
        deed=Deed(
            kind="merge-classes",
            class_names=("x" + "\u00e9" * 31 + "y", "\u00e9" * 32),
            more_classes=huge,
            unix_seconds=LAST_SECOND,
        ),
        signature=signature,
    )
    manifest = _base(
        class_names=names, shipped_classes=capacity, capacity=capacity, architecture="a" * 64, recipe="r" * 64
    )
    assert manifest.custody
    base = manifest.custody.base
    manifest = manifest.model_copy(
        update={
            "increment_count": huge,
            "parent_digest": "e" * 64,
            "bundle_bytes": huge,
            "ledger": Ledger(
                first=entry,
                maximum=entry,
                latest=(entry,) * LEDGER_LENGTH,
                before="f" * 64,
                head="f" * 64,
                seal="f" * 64,
            ),
            "custody": Custody(
                base=base, base_signature=signature, links=(link,) * LINKS_KEPT, dropped_links=huge
            ),
        }
    )
    assert len(manifests.encode(manifest)) == manifests.encoded_length(capacity)


# Descriptions of changes


@pytest.mark.parametrize(
    "altered",
    [{"kind": "undo"}, {"class_names": ("Hat",)}, {"more_classes": 1}, {"unix_seconds": 1}],
)
def test_the_description_of_a_change_is_signed(altered: dict[str, Any]) -> None:
    base = _base()
    deed = make_deed("add-classes", ("Bag",))
    grown = record_change(_next(base, class_names=("Coat", "Dress", "Bag")), base, DEVICE, deed)
    assert grown.custody and custody_problems(grown, VENDOR_KEY, DEVICE_KEY) == ()
    (link,) = grown.custody.links
    forged_link = link.model_copy(update={"deed": deed.model_copy(update=altered)})
    forged = grown.model_copy(update={"custody": grown.custody.model_copy(update={"links": (forged_link,)})})
    assert any("signature that does not match" in p for p in custody_problems(forged, VENDOR_KEY, DEVICE_KEY))


def test_a_record_names_two_classes_and_counts_the_others() -> None:
    deed = make_deed("add-classes", [f"class {n}" for n in range(100)])
    assert deed.class_names == ("class 0", "class 1") and deed.more_classes == 98
    with pytest.raises(ValueError, match="looks like a path"):
        Deed(kind="add-classes", class_names=("a/b",), unix_seconds=0)


def _next(parent: Manifest, **changes: Any) -> Manifest:
    """Makes the manifest of the next change, without a link."""
    history = {"increment_count": parent.increment_count + 1, "parent_digest": parent.model_digest}
    return parent.model_copy(update=history | changes)


def _chain(*changes: dict[str, Any]) -> Manifest:
    """Makes the manifest of a base after some changes, each of which is signed."""
    manifest = _base()
    for change in changes:
        manifest = record_change(_next(manifest, **change), manifest, DEVICE)
    return manifest


LESS = {"class_names": ("Dress",), "shipped_classes": 1}
BACK = {"class_names": ("Coat", "Dress"), "shipped_classes": 2}


def test_a_shipped_class_comes_back_only_with_the_model_that_had_it() -> None:
    assert custody_problems(_chain(LESS, BACK), VENDOR_KEY, DEVICE_KEY) == ()
    assert custody_problems(_chain(LESS, BACK, LESS, BACK), VENDOR_KEY, DEVICE_KEY) == ()
    another = _chain(LESS, {**BACK, "tensors_digest": "8" * 64})
    two_before = _chain(LESS, {"tensors_digest": "7" * 64}, {**BACK, "tensors_digest": "0" * 64})
    for forged in (another, two_before):
        assert any("has more shipped classes than the change before it" in p for p in _problems(forged))


def test_no_more_shipped_classes_come_back_than_the_model_had() -> None:
    """A model's digest does not cover the number of shipped classes, but the record contains this number."""
    names = {"class_names": ("Coat", "Dress", "Bag")}
    forged = _chain({"shipped_classes": 1}, {**names, "shipped_classes": 1}, {"shipped_classes": 2, **BACK})
    assert any("change 3 has more shipped classes" in problem for problem in _problems(forged))


RENAMED = {"class_names": ("Mantel", "Dress"), "renamed": (ShippedName(class_index=0, name="Coat"),)}


def test_a_shipped_class_that_was_renamed_is_compared_by_the_vendors_name() -> None:
    assert custody_problems(_chain(RENAMED), VENDOR_KEY, DEVICE_KEY) == ()
    wrong = ShippedName(class_index=0, name="Boat")
    for lie in ({**RENAMED, "renamed": ()}, {**RENAMED, "renamed": (wrong,)}):
        assert any("names of the shipped classes do not match" in p for p in _problems(_chain(lie)))


# Alterations of the base


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"tensors_digest": "9" * 64},
            "the model (tensors, class names, preprocessing, levels) does not match",
        ),
        ({"class_names": ("Boat", "Dress")}, "the names of the shipped classes do not match"),
        ({"class_names": ("Dress", "Coat")}, "the names of the shipped classes do not match"),
        (
            {"preprocessing": PREPROCESSING.model_copy(update={"mean": (0, 0, 0)})},
            "the preprocessing or the head",
        ),
        ({"levels": Levels(blocks=(4, 8), grid=3, values=432)}, "or the head's inputs do not match"),
        ({"capacity": 65}, "capacity is 65, but the base's statement says 64"),
        ({"activation": "softmax"}, "activation is softmax, but the base's statement says sigmoid"),
        ({"architecture": "resnet34"}, "architecture is resnet34, but the base's statement says resnet18"),
        ({"bundle_bytes": 1001}, "bundle_bytes is 1001"),
        ({"shipped_classes": 1}, "shipped_classes is 1, but the base's statement says 2"),
        ({"custody": None}, "the base is not signed"),
        ({"increment_count": 1}, "links were added or removed"),
    ],
)
def test_an_altered_base_is_named(change: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in _problems(_base().model_copy(update=change)))


@pytest.mark.parametrize(
    "change",
    [
        {"capacity": 65},
        {"activation": "softmax"},
        {"architecture": "resnet34"},
        {"bundle_bytes": 1001},
        {"preprocessing": PREPROCESSING.model_copy(update={"resize_size": 80})},
        {"class_names": ("Boat", "Dress", "class 1", "class 2", "class 3")},
        {"shipped_classes": 3},
    ],
)
def test_a_changed_model_must_keep_the_form_that_was_signed(change: dict[str, Any]) -> None:
    grown = _grown(_base(), 3)
    (name,) = change
    assert any(
        name.replace("class_names", "names of the shipped classes") in found
        for found in _problems(grown.model_copy(update=change))
    )


STATEMENT_CHANGES: dict[str, Any] = {
    "architecture": "resnet34",
    "activation": "softmax",
    "capacity": 65,
    "bundle_bytes": 1001,
    "preprocessing_digest": "9" * 64,
    "shipped_classes": 1,
    "class_names_digest": "9" * 64,
    "terms_digest": "9" * 64,
    "model_digest": "9" * 64,
}


def test_every_field_of_the_statement_is_covered_below() -> None:
    base = _base().custody
    assert base and base.base and STATEMENT_CHANGES.keys() == type(base.base).model_fields.keys()


@pytest.mark.parametrize("field", STATEMENT_CHANGES)
def test_an_altered_statement_no_longer_fits_its_signature(field: str) -> None:
    signed = _base()
    assert signed.custody and signed.custody.base
    statement = signed.custody.base.model_copy(update={field: STATEMENT_CHANGES[field]})
    altered = _with_custody(signed, base=statement)
    assert any("signature does not match its statement" in found for found in _problems(altered))


@pytest.mark.parametrize("change", [{"permits": ("undo",)}, {"license": "none"}, {"author": "somebody"}])
def test_a_device_cannot_change_the_vendors_terms(change: dict[str, Any]) -> None:
    found = _problems(_grown(_base().model_copy(update=change), 1))
    assert any("permits do not match the base's statement" in problem for problem in found)


def test_an_altered_or_foreign_signature_is_named() -> None:
    signed = _base()
    assert signed.custody and signed.custody.base_signature
    own = signed.custody.base_signature
    swapped = own.model_copy(update={"value": own.value[64:] + own.value[:64]})
    assert any("does not match" in p for p in _problems(_with_custody(signed, base_signature=swapped)))
    renamed = own.model_copy(update={"key": public_key(STRANGER)})
    found = _problems(_with_custody(signed, base_signature=renamed))
    assert len(found) == 2 and "not with the trusted" in found[0] and "does not match" in found[1]
    (found_,) = _problems(_base(signer=STRANGER))
    assert public_key(STRANGER) in found_ and VENDOR_KEY in found_
    assert _problems(_with_custody(signed, base_signature=None)) == ("the base is not signed",)
    assert "the base is not signed" in _problems(_with_custody(signed, base=None))


def test_a_signature_of_another_kind_of_statement_does_not_fit() -> None:
    """A device's signature of a change cannot pass for a vendor's signature of a base."""
    grown = _grown(_base(), 1, key=VENDOR)
    assert grown.custody and grown.custody.links[0].signature
    moved = _with_custody(grown, base_signature=grown.custody.links[0].signature)
    assert any("base's signature does not match" in found for found in _problems(moved))


# Alterations of the chain


def _with_custody(manifest: Manifest, **changes: Any) -> Manifest:
    assert manifest.custody
    return manifest.model_copy(update={"custody": manifest.custody.model_copy(update=changes)})


def _edit(place: int, **changes: Any) -> Callable[[tuple[Link, ...]], tuple[Link, ...]]:
    def edit(links: tuple[Link, ...]) -> tuple[Link, ...]:
        return (*links[:place], links[place].model_copy(update=changes), *links[place + 1 :])

    return edit


@pytest.mark.parametrize(
    ("alter", "problem"),
    [
        (_edit(1, model_digest="9" * 64), "change 3 does not start from the model of the change before"),
        (_edit(1, model_digest="9" * 64), "change 2 has a signature that does not match"),
        (_edit(1, parent_digest="9" * 64), "change 2 does not start from the model of the change before"),
        (_edit(0, parent_digest="9" * 64), "change 1 does not start from the shipped base"),
        (_edit(3, model_digest="9" * 64), "the record ends at change 4, not at the current model"),
        (_edit(1, increment=7), "change 7 is in the record where change 2 belongs"),
        (_edit(1, shipped_classes=1), "change 3 has more shipped classes than the change before"),
        (_edit(1, signature=None), "change 2 is not signed"),
        (_edit(1, signature=Signature(key=DEVICE_KEY, value="0" * 128)), "change 2 has a signature that"),
        (_edit(1, signature=sign(STRANGER, b"x")), "change 2 is signed with the key"),
        (lambda links: (links[1], links[0], *links[2:]), "change 2 is in the record where change 1"),
        (lambda links: (links[1], links[0], *links[2:]), "change 1 does not start from the model of the"),
        (lambda links: links[1:], "links were added or removed"),
        (lambda links: links[1:], "change 2 does not start from the shipped base"),
        (lambda links: (links[0], *links[2:]), "change 3 does not start from the model of the change before"),
        (lambda links: links[:-1], "the record ends at change 3, not at the current model"),
        (lambda links: (*links, links[-1]), "links were added or removed"),
        (lambda links: (), "links were added or removed"),
    ],
)
def test_alterations_of_the_chain_are_named(alter: Callable[..., tuple[Link, ...]], problem: str) -> None:
    grown = _grown(_base(), 4)
    assert grown.custody
    found = _problems(_with_custody(grown, links=alter(grown.custody.links)))
    assert any(problem in one for one in found), found


def test_links_dropped_along_with_their_count_are_noticed() -> None:
    grown = _grown(_base(), 4)
    assert grown.custody
    hidden = _with_custody(grown, links=grown.custody.links[2:], dropped_links=2)
    assert _problems(hidden) == ("2 changes are missing from the record, although it is not full",)


def test_a_lower_count_does_not_fit_the_signed_numbers() -> None:
    grown = _grown(_base(), 20)
    assert grown.custody
    renumbered = tuple(
        link.model_copy(update={"increment": link.increment - 2}) for link in grown.custody.links
    )
    fewer = _with_custody(grown, links=renumbered, dropped_links=2).model_copy(update={"increment_count": 18})
    assert len([p for p in _problems(fewer) if "signature that does not match" in p]) == LINKS_KEPT


def test_a_chain_of_one_base_does_not_fit_another() -> None:
    """The device signs the base along with each change, so the links cannot be moved to another base."""
    ours, other = _grown(_base(), 1), _base(capacity=65)
    assert ours.custody and other.custody
    moved = ours.model_copy(
        update={"capacity": 65, "custody": other.custody.model_copy(update={"links": ours.custody.links})}
    )
    (found,) = _problems(moved)
    assert found.startswith("change 1 has a signature that does not match")


def test_weights_changed_without_a_record_are_noticed() -> None:
    grown = _grown(_base(), 2).model_copy(update={"tensors_digest": "9" * 64})
    assert _problems(grown) == ("the record ends at change 2, not at the current model",)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_a_changed_byte_is_noticed_unless_no_signature_covers_it(data: st.DataObject) -> None:
    manifest = _grown(_base(), 3)
    content = bytearray(manifests.encode(manifest))
    text = len(manifests.decode_text(bytes(content)))
    for _ in range(data.draw(st.integers(1, 2))):
        content[data.draw(st.integers(0, text - 1))] = data.draw(st.sampled_from(b'0123456789abcdef",x'))
    try:
        altered = manifests.decode(bytes(content), "model.lwm")
    except BundleError:
        return
    if not _problems(altered):
        assert altered.model_copy(update={"recipe": "base", "ledger": Ledger()}) == manifest


def test_all_problems_are_listed_at_once() -> None:
    grown = _grown(_base(signer=STRANGER), 2, key=None).model_copy(
        update={"capacity": 65, "parent_digest": None}
    )
    assert len(_problems(grown)) == 5

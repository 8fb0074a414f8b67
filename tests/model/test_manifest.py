"""The manifest is a block of fixed length, which is read as it was written or refused with a BundleError."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lwm_edge.errors import BundleError, CapacityError
from lwm_edge.model.ledger import Ledger, LedgerEntry
from lwm_edge.model.manifest import Manifest, decode, decode_text, encode, encoded_length
from lwm_edge.photos.preprocessing import Preprocessing
from tests.support.manifests import PREPROCESSING, class_names, manifest


def entry(increment: int, **changes: Any) -> LedgerEntry:
    fields = {"classes": 10, "bundle_bytes": 1, "onnx_bytes": 1, "peak_rss_bytes": 1, "seconds": 1.0}
    return LedgerEntry(increment=increment, **(fields | changes))


def block(content: Any, capacity: int = 8) -> bytes:
    """Pads any JSON content the way a manifest is padded."""
    return json.dumps(content).encode().ljust(encoded_length(capacity), b"\0")


def refusal(content: bytes) -> BundleError:
    with pytest.raises(BundleError) as caught:
        decode(content, "model.lwm")
    return caught.value


# Levels


def test_levels_are_part_of_the_model_digest() -> None:
    levels = {"blocks": (5, 8), "grid": 3, "values": 432}
    without, reading = manifest(), manifest(levels=levels)
    other = manifest(levels=levels | {"blocks": (5, 9)})
    assert len({without.model_digest, reading.model_digest, other.model_digest}) == 3
    assert decode(encode(reading), "here") == reading
    content = json.loads(decode_text(encode(reading)))
    content["levels"]["grid"] = 2  # the digest no longer fits
    assert "digest" in str(refusal(block(content)))


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": ()},
        {"blocks": (-1,)},
        {"blocks": (8, 5)},
        {"blocks": (5, 5)},
        {"grid": 0},
        {"grid": 9},
        {"values": 0},
        {"values": 2**40},
        {"x": 1},
    ],
)
def test_impossible_levels_are_refused(change: dict[str, Any]) -> None:
    levels = {"blocks": [5, 8], "grid": 3, "values": 432} | change
    content = json.loads(decode_text(encode(manifest()))) | {"levels": levels}
    assert any("levels" in problem for problem in refusal(block(content)).problems)


@pytest.mark.parametrize(
    ("renamed", "problem"),
    [
        ([{"class_index": 2, "name": "Hat"}], "in ascending order, or lists a class that was not shipped"),
        ([{"class_index": 1, "name": "Hat"}, {"class_index": 0, "name": "Cap"}], "not in ascending order"),
        ([{"class_index": 0, "name": "Hat"}] * 2, "not in ascending order"),
        ([{"class_index": 0, "name": "Coat"}], "`renamed` lists a class that has the vendor's name"),
        ([{"class_index": 0, "name": "a/b"}], "looks like a path"),
    ],
)
def test_impossible_names_from_the_vendor_are_refused(renamed: list[dict[str, Any]], problem: str) -> None:
    content = json.loads(decode_text(encode(manifest(capacity=8, increment_count=1)))) | {"renamed": renamed}
    assert any(problem in found for found in refusal(block(content)).problems)


def test_nothing_is_renamed_before_the_first_change() -> None:
    content = json.loads(decode_text(encode(manifest()))) | {"renamed": [{"class_index": 0, "name": "Hat"}]}
    assert any("nothing has been changed yet" in found for found in refusal(block(content)).problems)


# Encoding


@settings(deadline=None)
@given(class_names, st.integers(0, 100), st.integers(0, 10**6), st.data())
def test_a_manifest_reads_back_as_written(class_names, room, increments, data):
    written = manifest(
        class_names=class_names,
        capacity=len(class_names) + room,
        shipped_classes=data.draw(st.integers(0, len(class_names))),
        increment_count=increments,
        parent_digest="f" * 64,
        ledger=Ledger().with_entry(entry(increments, seconds=0.1)),
    )
    content = encode(written)
    assert decode(content, "model.lwm") == written
    assert len(content) == encoded_length(written.capacity)


@pytest.mark.parametrize("capacity, length", [(1, 24_704), (256, 57_344), (65_536, 8_413_184)])
def test_the_length_is_24_kib_and_128_bytes_a_class(capacity, length):
    assert encoded_length(capacity) == length
    assert len(encode(manifest(capacity=capacity, class_names=("Coat",), shipped_classes=1))) == length


def test_the_length_is_the_same_after_any_number_of_increments_and_with_the_longest_names():
    full = tuple(f"{n:03}" + "\u00e9" * 30 + "x" for n in range(300))
    assert {len(name.encode()) for name in full} == {64}
    ledger = Ledger()
    for increment in range(40):
        ledger = ledger.with_entry(entry(increment, bundle_bytes=2**40, peak_rss_bytes=2**40, seconds=1 / 3))
    shipped = manifest(capacity=300)
    grown = manifest(
        capacity=300,
        class_names=full,
        recipe="r" * 64,
        increment_count=10**9,
        parent_digest="a" * 64,
        ledger=ledger,
    )
    assert len(encode(grown)) == len(encode(shipped)) == encoded_length(300)
    assert decode(encode(grown), "model.lwm") == grown


def test_names_full_of_quotation_marks_that_leave_no_room_are_refused():
    fields = {"class_names": ('"' * 64,) * 8_000}  # 131 bytes each; equal names, which model_copy lets pass
    with pytest.raises(CapacityError, match="use shorter class names"):
        encode(manifest(capacity=8_000).model_copy(update=fields))


def test_the_text_does_not_include_the_padding():
    content = encode(manifest())
    assert decode_text(content) == content.rstrip(b"\0")
    assert json.loads(decode_text(content))["class_names"] == ["Coat", "Dress"]


# Refusals


@pytest.mark.parametrize("version", [0, 3, "2", None, [1]])
def test_another_schema_version_is_named_with_what_to_do(version):
    message = refusal(block({"schema_version": version, "anything": "else"})).message
    assert message == (
        f"model.lwm has bundle schema version {version!r}; this lwm-edge reads version 2; "
        "install the lwm-edge release that fits the bundle"
    )


def test_a_bundle_from_before_the_first_release_must_be_rebuilt():
    assert refusal(block({"schema_version": 1})).message == (
        "model.lwm has bundle schema version 1; this lwm-edge reads version 2; "
        "version 1 was used only before the first release; rebuild the base with lwm-edge build-base"
    )


@pytest.mark.parametrize(
    "text", [b"", b"\0" * 100, b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000]
)
def test_a_manifest_that_is_not_a_json_object_is_damaged(text):
    assert refusal(text).message == "model.lwm: the manifest is not JSON; the file is damaged"


@pytest.mark.parametrize("place", [0, 1, -1])
def test_bytes_hidden_in_the_padding_are_found(place):
    content = bytearray(encode(manifest()))
    padding = range(len(decode_text(bytes(content))) + 1, len(content))
    content[padding[place]] = ord("x")
    assert refusal(bytes(content)).message == "model.lwm: there are bytes hidden after the manifest"


@pytest.mark.parametrize("more", [-1, 1, 128])
def test_a_length_that_does_not_fit_the_capacity_is_refused(more):
    content = encode(manifest())
    wrong = content[:more] if more < 0 else content + b"\0" * more
    assert refusal(wrong).message == "model.lwm: the manifest's length does not match its capacity"


@pytest.mark.parametrize(
    "field, value, problem",
    [
        ("class_names", [], "class_names: Tuple should have at least 1 item"),
        ("class_names", ["../etc"], "class name '../etc' looks like a path"),
        ("class_names", ["a\n"], "class name 'a\\n' is empty, or starts or ends with a space"),
        ("class_names", ["Coat", "COAT"], "two class names are the same"),
        ("class_names", ["a", "b", "c", "d"], "<= capacity does not hold"),
        ("shipped_classes", 3, "shipped_classes <= number of class_names"),
        ("capacity", 65_537, "capacity: it must be less than or equal to 65536"),
        ("architecture", "os.system('x')", "architecture: String should match pattern"),
        ("tensors_digest", "G" * 64, "tensors_digest: String should match pattern"),
        ("recipe", "r" * 65, "recipe: String should have at most 64 characters"),
        ("activation", "relu", "activation: it must be 'sigmoid' or 'softmax'"),
        ("author", "a\nb", "author: contains control or private-use characters"),
        ("license", "", "license: String should have at least 1 character"),
        ("description", "x" * 1001, "description: String should have at most 1000 characters"),
        ("permits", ["undo", "add-photos"], "permits: permits are not sorted"),
        ("permits", ["anything"], "permits.0: it must be 'add-photos', 'undo' or 'other-devices'"),
        ("surprise", 1, "surprise: there is nothing of this name; check its spelling"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(field, value, problem):
    fields = manifest(capacity=3).model_dump(mode="json") | {field: value}
    error = refusal(block(fields, capacity=3))
    assert error.message == "model.lwm: the manifest breaks the bundle format"
    assert len(error.problems) == 1
    assert problem in error.problems[0]


def test_all_broken_fields_are_listed():
    fields = manifest().model_dump(mode="json") | {"capacity": -1, "activation": "relu", "recipe": None}
    assert sorted(p.split(":")[0] for p in refusal(block(fields)).problems) == [
        "activation",
        "capacity",
        "recipe",
    ]


def test_control_characters_in_a_fields_name_are_shown_escaped():
    fields = manifest().model_dump(mode="json") | {"a\x1b[2J\nb": 1}

    (problem,) = refusal(block(fields)).problems
    assert problem.startswith("'a\\x1b[2J\\nb': there is nothing of this name")


def test_a_missing_field_is_named():
    fields = manifest().model_dump(mode="json")
    del fields["architecture"]
    assert refusal(block(fields)).problems == ("architecture: it is missing",)


def decodes_or_is_refused(content: bytes) -> None:
    try:
        assert isinstance(decode(content, "model.lwm"), Manifest)
    except BundleError as error:
        assert error.message.startswith("model.lwm")


@settings(deadline=None)
@given(st.binary(max_size=400))
@example(b"{}")
def test_garbage_is_refused(content):
    assert refusal(content).message.startswith("model.lwm")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutated_bytes_are_read_or_refused_and_nothing_else(data):
    content = bytearray(encode(manifest(ledger=Ledger().with_entry(entry(1)))))
    text_length = len(decode_text(bytes(content)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, text_length + 2))] = data.draw(st.integers(0, 255))
    decodes_or_is_refused(bytes(content))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(Manifest.model_fields)), json_values)
@example("increment_count", 10**4000)
@example("class_names", ["\ud800"])
@example("schema_version", True)
@example("schema_version", 1.0)
def test_any_json_in_any_field_is_read_or_refused_and_nothing_else(field, value):
    decodes_or_is_refused(block(manifest().model_dump(mode="json") | {field: value}))


# Ledger


def test_the_ledger_keeps_the_first_the_latest_16_and_the_maximum_field_by_field():
    ledger = Ledger()
    assert (ledger.first, ledger.last, ledger.maximum) == (None, None, None)
    for n in range(40):
        cost = {"classes": 10 + n, "peak_rss_bytes": 1000 - n, "seconds": 99.5 if n == 3 else 1.0}
        ledger = ledger.with_entry(entry(n, **cost, onnx_bytes=7 if n == 20 else 5))
    assert ledger.first == entry(0, classes=10, peak_rss_bytes=1000, onnx_bytes=5)
    assert [e.increment for e in ledger.latest] == list(range(24, 40))
    assert ledger.last == ledger.latest[-1] == entry(39, classes=49, peak_rss_bytes=961, onnx_bytes=5)
    assert ledger.maximum == entry(39, classes=49, peak_rss_bytes=1000, onnx_bytes=7, seconds=99.5)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_ledger_takes_no_impossible_figure(seconds):
    with pytest.raises(ValidationError):
        entry(0, seconds=seconds)


# Digest and preprocessing


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors_digest": "1" * 64},
        {"class_names": ("Dress", "Coat")},
        {"class_names": ("Coat", "Dress", "Bag")},
        {"class_names": ("Coat", "dress")},
        {"author": "A vendor"},
        {"license": "MIT"},
        {"description": "Clothes."},
        {"permits": ("undo",)},
        {"preprocessing": PREPROCESSING.model_copy(update={"resize_size": 73})},
        {"preprocessing": PREPROCESSING.model_copy(update={"image_size": 63})},
        {"preprocessing": PREPROCESSING.model_copy(update={"mean": (0.485, 0.456, 0.407)})},
        {"preprocessing": PREPROCESSING.model_copy(update={"std": (0.229, 0.224, 0.226)})},
    ],
)
def test_the_model_digest_changes_with_what_the_model_computes_and_the_vendors_terms(changes):
    assert manifest(**changes).model_digest != manifest().model_digest


@pytest.mark.parametrize(
    "changes",
    [
        {"ledger": Ledger().with_entry(entry(1))},
        {"recipe": "lwm"},
        {"increment_count": 5},
        {"parent_digest": "a" * 64},
        {"shipped_classes": 1},
    ],
)
def test_the_model_digest_does_not_change_with_how_the_model_came_about(changes):
    assert manifest(**changes) != manifest()
    assert manifest(**changes).model_digest == manifest().model_digest


def test_the_model_digest_is_the_same_in_all_releases():
    """ONNX files and parent links on devices contain the digest, so its value must never change."""
    assert manifest().model_digest == "43628165a6b85b0af8cf76ffb34d294a6fb980269c8897b3595723bde510b5cf"


@pytest.mark.parametrize(
    "changes", [{"image_size": 73}, {"image_size": 7}, {"std": (1, 0, 1)}, {"mean": (0, float("nan"), 0)}]
)
def test_preprocessing_that_cannot_work_is_refused(changes):
    with pytest.raises(ValidationError):
        Preprocessing(**(PREPROCESSING.model_dump() | changes))

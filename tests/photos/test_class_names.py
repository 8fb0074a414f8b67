"""Misleading class names are refused, and names that are the same or look the same are recognised."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from lwm_edge.cli.terminal import safe
from lwm_edge.photos.class_names import class_name_problem, fold_class_name, shown_class_name
from lwm_edge.photos.listing import printable_text
from tests.support.manifests import manifest, names

JOINED = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
    "\u2764\ufe0f\u200d\U0001f525",  # a burning heart
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
    "\u09b0\u200d\u09cd\u09af\u09be\u09ac",  # Bengali
    "\u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Sinhala
)


@pytest.mark.parametrize(
    "name",
    [
        "Coat",
        "T-shirt top",
        "Ёлка",
        "日本語",
        "naïve",
        "a.b",
        "'\"",
        "🦊",
        "❤\ufe0f",
        "1\ufe0f\u20e3",
        "\u845b\U000e0100",
        "a\u0378b",
        *JOINED,
    ],
)
def test_ordinary_names_are_fine(name):
    assert class_name_problem(name) is None


@pytest.mark.parametrize(
    "name, problem",
    [
        ("", "is empty, or starts or ends with a space"),
        ("   ", "is empty, or starts or ends with a space"),
        ("\u3000\u00a0", "is empty, or starts or ends with a space"),
        (" Coat", "is empty, or starts or ends with a space"),
        ("Coat\n", "is empty, or starts or ends with a space"),
        (".", "looks like a path"),
        ("..", "looks like a path"),
        ("../Coat", "looks like a path"),
        ("a/b", "looks like a path"),
        ("a\\b", "looks like a path"),
        ("a\nb", "contains control or private-use characters"),
        ("a\0b", "contains control or private-use characters"),
        ("a\x1b[2Jb", "contains control or private-use characters"),
        ("a\x7fb", "contains control or private-use characters"),
        ("a\x85b", "contains control or private-use characters"),
        ("a\u2028b", "contains control or private-use characters"),
        ("Co\u200bat", "contains invisible characters"),  # zero-width space
        ("Co\u200dat", "contains invisible characters"),  # zero-width joiner
        ("\ufeffCoat", "contains invisible characters"),  # byte order mark
        ("Co\u00adat", "contains invisible characters"),  # soft hyphen
        ("a\ud800b", "is not UTF-8"),  # half a surrogate pair
        ("caf\udce9", "is not UTF-8"),  # as Python reads a folder's name in Latin-1
        ("\u0645\u06cc\u200c", "contains invisible characters"),  # a joiner at the end
        ("\u200d\U0001f469", "contains invisible characters"),
        ("\U0001f468\u200d\u200d\U0001f469", "contains invisible characters"),
        ("\u0995\u200c\u0995", "contains invisible characters"),  # in Bengali, it belongs beside a virama
        ("\U0001f3f4\U000e0061\U000e007f", "contains invisible characters"),  # tags of no known flag
        ("a\ue000b", "contains control or private-use characters"),  # private use
        ("a\u202eb", "contains characters that change the text direction"),
        ("a\u2066b", "contains characters that change the text direction"),
        ("Coat\ufe0f", "contains invisible characters"),  # a variation selector, which has no use after a t
        ("Co\U000e0100at", "contains invisible characters"),
        ("a \u3164", "contains invisible characters"),  # a blank letter
        ("\u3164", "contains invisible characters"),
        ("\u2800\ufe0f", "contains invisible characters"),
        ("x" * 65, "is longer than 64 bytes of UTF-8"),
        ("\u00e9" * 33, "is longer than 64 bytes of UTF-8"),
        ("Cafe\u0301", "is not in Unicode form NFC"),
        ("\u212b", "is not in Unicode form NFC"),  # the angstrom sign
    ],
)
def test_a_name_that_would_mislead_is_refused(name, problem):
    assert class_name_problem(name) == problem
    with pytest.raises(ValidationError):
        manifest(class_names=("Dress", name))


@pytest.mark.parametrize("name", ["x" * 64, "\u00e9" * 32, "🦊" * 16])
def test_a_name_of_64_bytes_is_just_short_enough(name):
    assert class_name_problem(name) is None


@pytest.mark.parametrize(
    "one, other",
    [
        ("Coat", "cOAT"),
        ("Caf\u00e9", "CAFE\u0301"),
        ("stra\u00dfe", "STRASSE"),
        ("\ufb01sh", "fish"),
        ("\uff23oat", "coat"),
        ("Coat", " coat "),
        ("a b", "A\u00a0B"),
        ("\u03a3\u03c2", "\u03c3\u03c3"),
    ],
)
def test_names_that_a_person_takes_for_the_same_fold_equal(one, other):
    assert fold_class_name(one) == fold_class_name(other)


@pytest.mark.parametrize(
    "one, other", [("Coat", "Coats"), ("e", "\u00e9"), ("T-shirt", "T shirt"), ("1", "l")]
)
def test_different_names_fold_differently(one, other):
    assert fold_class_name(one) != fold_class_name(other)


@settings(deadline=None)
@given(names)
def test_folding_does_not_depend_on_the_unicode_form(name):
    assert {fold_class_name(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")} == {
        fold_class_name(name)
    }
    assert fold_class_name(name.casefold()) == fold_class_name(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Coat", "Co\u034fat"),
        ("Heart \u2764", "Heart \u2764\ufe0f"),
        ("Coat", "Coat\u2800"),
        ("Coat", "\u3164Coat"),
        ("Coat", "\u0421oat"),
        ("Coat", "C\u043e\u0430t"),
        ("HAT", "\u041d\u0410\u0422"),
        ("OPA", "\u039f\u03a1\u0391"),
        ("a b", "a \u3000 b"),
        ("x\u0445", "\u0445x"),
        ("na\u00efve", "na\u0457ve"),
        ("B\u00f6e", "B\u04e7e"),
        ("\u00f3", "\u03cc"),
        ("Coat", "\u03f9oat"),
        ("coat", "\u03f2oat"),
        ("Ice", "\u04c0ce"),
        ("Jay", "\u037fa\u03b3"),
        ("T-shirt", "T\u2011shirt"),
        ("T-shirt", "T\u2212shirt"),
        ("Coat", "Coat\U0001d159"),
    ],
)
def test_names_that_look_alike(one, other):
    assert fold_class_name(one) != fold_class_name(other)
    assert shown_class_name(one) == shown_class_name(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Coat", "Boat"), ("Кот", "Рот"), ("0", "O"), ("l", "1"), ("á", "a"), ("🦊", "🐺")]
)
def test_names_that_can_be_told_apart(one, other):
    assert shown_class_name(one) != shown_class_name(other)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("Bill", "BiII"), ("Bill", "Bi1l"), ("Ill", "|ll"), ("Model 10", "Model lO"), ("Oil", "0il"),
        ("noun", "\u0578\u0585\u057d\u0578"), ("OLS", "\u0555\u053c\u054f"), ("jug", "\u0575\u057d\u0581"),
    ],
)  # fmt: skip
def test_look_alikes_among_letters_and_digits_and_in_armenian(name: str, twin: str) -> None:
    assert fold_class_name(name) != fold_class_name(twin)
    assert shown_class_name(name) == shown_class_name(twin)


@pytest.mark.parametrize("name", JOINED)
def test_a_joined_name_is_shown_as_it_is_and_passes_for_no_other(name: str) -> None:
    assert safe(name) == printable_text(name) == name
    assert shown_class_name(name.replace("\u200c", "").replace("\u200d", "")) == shown_class_name(name)
    assert safe(f"\u200d{name}\u202e") == f"\\u200d{name}\\u202e"


def test_flags_that_differ_by_tags_stay_apart() -> None:
    flags = {
        f"\U0001f3f4\U000e0067\U000e0062{tags}\U000e007f"
        for tags in ("\U000e0065\U000e006e\U000e0067", "\U000e0073\U000e0063\U000e0074")
    }
    assert len({shown_class_name(flag) for flag in flags}) == 2


def test_single_characters_stay_apart_for_models_that_read_text() -> None:
    assert len({shown_class_name(name) for name in "Il1|O0"}) == 6

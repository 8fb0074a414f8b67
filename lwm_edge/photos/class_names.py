"""Decides what can be a class name or a vendor's text, and whether two names are the same."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise
from pathlib import Path

from ..characters import without_joining
from ..records import utf8_name

MAX_CLASS_NAME_BYTES = 64
_BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
# Cn (unassigned) is not refused: a later version of Unicode may assign such a character, and whether a bundle
# is valid must not depend on Python's version of Unicode.
_REFUSED_CATEGORIES = {"Cc", "Co", "Zl", "Zp"}
_WITHOUT_VARIANTS = {"Lu", "Ll", "Lt", "Zs"}  # after these characters, an invisible one has no use
# Blank characters, and assigned ones that Unicode calls default ignorable. Most of those that `text_problem`
# refuses anyway are left out, and so are tags, as they tell one flag from another.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d159\U000e0100-\U000e01ef]"
)
# From https://www.unicode.org/Public/security/latest/confusables.txt: Cyrillic, Greek and Armenian
# letters, hyphens.
_LATIN_TWINS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d\u04cf\u03bf\u03bd\u03b1\u03b9\u03c1"
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u04ae\u050c\u051a\u051c"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u0433\u04af\u0475\u0474\u042c\u04c0\u03b3\u03c3\u03c5\u03f2\u03f3\u03f9\u037f\u03dc\u2010\u2212"
    "\u0561\u0563\u0566\u0570\u0575\u0578\u057c\u057d\u0581\u0584\u0585\u053c\u054d\u054f\u0555",
    "aeopcyxijshdqwlovaipABESIJKMHOPCTXYGQWABEZHIKMNOPTYXryvVbIyoucjCJF--wqqhjnnugfoLUSO",
)
_TWINS_AMONG_THEMSELVES = str.maketrans("I1|0", "lllO")


def normalise_class_name(text: str) -> str:
    """Returns the name in Unicode form NFC, as bundles keep it."""
    return unicodedata.normalize("NFC", text)


def class_name_of(folder: Path) -> str:
    """Returns the class name that a folder has, read as UTF-8 even if the locale has another encoding."""
    return normalise_class_name(utf8_name(folder.name))


def fold_class_name(text: str) -> str:
    """Folds a class name: two names that a person would call the same give the same text."""
    return normalise_class_name(unicodedata.normalize("NFKC", text).casefold()).strip()


def shown_class_name(text: str) -> str:
    """Reduces a class name to what can be seen of it, to find names that look alike.

    A name can pass for another if it has invisible characters, or letters of another script that look like
    Latin ones (twins).
    """
    # Twins are replaced before NFKD, which may turn them into characters that look different, and again after
    # it, because it splits an accented letter into an accent and a letter, which may be a twin.
    text = _INVISIBLE.sub("", text).translate(_LATIN_TWINS)
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKD", text)).translate(_LATIN_TWINS)
    if len(visible) > 1:  # not for single characters: they are the classes of a model that reads text
        visible = visible.translate(_TWINS_AMONG_THEMSELVES)
    return " ".join(fold_class_name(visible).split())


def text_problem(text: str) -> str | None:
    """Says why a text cannot be shown as it is; returns None if it can."""
    if any(unicodedata.bidirectional(c) in _BIDIRECTIONAL for c in text):
        return "contains characters that change the text direction"
    categories = {unicodedata.category(c) for c in without_joining(text)}
    if "Cs" in categories:  # half a surrogate pair; Python also reads a byte that is not UTF-8 as one
        return "is not UTF-8"
    if categories & _REFUSED_CATEGORIES:
        return "contains control or private-use characters"
    if "Cf" in categories:
        return "contains invisible characters"
    return None


def _has_stray_invisibles(name: str) -> bool:
    """Tells whether an invisible character comes first, or after a cased letter or a space.

    In these places it has no use. After other characters, it may be part of an emoji or an East Asian name.
    """
    return any(_INVISIBLE.match(c) and _has_no_variants(before) for before, c in pairwise(" " + name))


def _has_no_variants(character: str) -> bool:
    # For example, the emoji U+2139 is a form of the letter i.
    is_a_form_of_another = unicodedata.decomposition(character).startswith("<")
    return unicodedata.category(character) in _WITHOUT_VARIANTS and (
        character == " " or not is_a_form_of_another
    )


def class_name_problem(name: str) -> str | None:
    """Says why a text cannot be a class name; returns None if it can."""
    if not name.strip() or name != name.strip():
        return "is empty, or starts or ends with a space"
    if name in (".", "..") or any(c in "/\\" for c in name):
        return "looks like a path"
    if problem := text_problem(name):
        return problem
    if _has_stray_invisibles(name):
        return "contains invisible characters"
    if len(name.encode()) > MAX_CLASS_NAME_BYTES:
        return f"is longer than {MAX_CLASS_NAME_BYTES} bytes of UTF-8"
    if normalise_class_name(name) != name:
        return "is not in Unicode form NFC"
    return None

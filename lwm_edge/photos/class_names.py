"""Decides what can be a class name or a vendor's text, and which two names are the same."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from ..records import utf8_name

MAX_CLASS_NAME_BYTES = 64
_BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
# Not Cn, unassigned: a newer Unicode assigns it, and a bundle must read the same on every Python.
_REFUSED_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def normalise_class_name(text: str) -> str:
    """Returns the name in Unicode form NFC, as bundles keep it."""
    return unicodedata.normalize("NFC", text)


def class_name_of(folder: Path) -> str:
    """Returns the class that a folder's name gives, read as UTF-8 even if the locale has another encoding."""
    return normalise_class_name(utf8_name(folder.name))


def fold_class_name(text: str) -> str:
    """Folds a class name: two names that a person would take for the same give the same text."""
    return normalise_class_name(unicodedata.normalize("NFKC", text).casefold()).strip()


def text_problem(text: str) -> str | None:
    """Says why a text cannot be shown as it is; returns None if it can."""
    if any(unicodedata.bidirectional(c) in _BIDIRECTIONAL for c in text):
        return "contains characters that change the text direction"
    if any(unicodedata.category(c) in _REFUSED_CATEGORIES for c in text):
        return "contains control or private-use characters"
    return None


def class_name_problem(name: str) -> str | None:
    """Says why a text cannot be a class name; returns None if it can."""
    if not name.strip() or name != name.strip():
        return "is empty, or starts or ends with a space"
    if name in (".", "..") or any(c in "/\\" for c in name):
        return "looks like a path"
    if problem := text_problem(name):
        return problem
    if len(name.encode()) > MAX_CLASS_NAME_BYTES:
        return f"is longer than {MAX_CLASS_NAME_BYTES} bytes of UTF-8"
    if normalise_class_name(name) != name:
        return "is not in Unicode form NFC"
    return None

"""Tells which invisible characters join their neighbours as Unicode intends; escapes what cannot be shown.

The characters are listed, not looked up, because whether a name is valid must not depend on Python's version
of Unicode.
"""

from __future__ import annotations

import re

_EMOJI = "[\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"
_ARABIC = "[\u0620-\u065f\u066e-\u06d5\u06fa-\u077f\u08a0-\u08e1\u08e3-\u08ff]"
_INDIC = "[\u0900-\u0963\u0971-\u0dff]"  # Devanagari to Sinhala
_VIRAMA = "[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca]"
_FLAGS = "|".join(  # England, Scotland and Wales: each letter of their codes is an invisible tag character
    "".join(chr(0xE0000 + ord(letter)) for letter in region) for region in ("gbeng", "gbsct", "gbwls")
)
# U+200C is the zero-width non-joiner, and U+200D the zero-width joiner.
_JOINING = re.compile(
    f"(?<={_EMOJI})\u200d(?={_EMOJI})|(?<={_EMOJI}\ufe0f)\u200d(?={_EMOJI})"
    f"|(?<={_ARABIC})\u200c(?={_ARABIC})"
    f"|(?<={_VIRAMA})[\u200c\u200d](?={_INDIC})|(?<={_INDIC})\u200d(?={_VIRAMA})"
    f"|(?<=\U0001f3f4)(?:{_FLAGS})\U000e007f"
)


def without_joining(text: str) -> str:
    """Removes the invisible characters that join others inside an emoji or a word."""
    return _JOINING.sub("", text)


def escaped(text: str, kept: str = "") -> str:
    """Escapes the characters that cannot be shown, except those in `kept`."""
    joining = {at for found in _JOINING.finditer(text) for at in range(*found.span())}
    return "".join(
        c if c.isprintable() or c in kept or at in joining else ascii(c)[1:-1] for at, c in enumerate(text)
    )

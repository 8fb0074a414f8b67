"""Writes parts of the commands that messages recommend, so that each command works as it is printed."""

from __future__ import annotations

import shlex
from pathlib import Path

from .records import utf8_name


def quoted(path: Path) -> str:
    r"""Quotes a path for a shell; bytes that cannot be shown are written as in $'caf\xe9'."""
    text = utf8_name(str(path))
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))


def remove_class_command(name: str, *options: str) -> str:
    """Writes the command that removes a class; a name that starts with a dash comes last, after `--`."""
    start = "lwm-edge remove-class"
    if name.startswith("-"):
        return " ".join([start, *options, "--", shlex.quote(name)])
    return " ".join([start, shlex.quote(name), *options])


def home_option(home: Path) -> str:
    """Writes the option that names a home; without it, a command could change another home."""
    return f"--home {quoted(home)}"

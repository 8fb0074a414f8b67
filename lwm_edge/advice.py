"""Writes parts of the commands that messages recommend, so that each command works as it is printed."""

from __future__ import annotations

import shlex
from pathlib import Path

from .records import utf8_name


def quoted(path: Path) -> str:
    r"""Quotes a path for a shell; bytes that cannot be shown are written as in $'caf\xe9'."""
    return _quoted(utf8_name(str(path)))


def _quoted(text: str) -> str:
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))


def one_class_command(verb: str, folder: Path, name: str, home: Path | None) -> str:
    """Writes the command that learns from a folder of photos that show one class."""
    words = ["lwm-edge", verb, quoted(folder), "--name", _quoted(name)]
    return " ".join([*words, home_option(home)] if home else words)


def remove_class_command(name: str, *options: str) -> str:
    """Writes the command that removes a class; a name that starts with a dash comes last, after `--`."""
    start = "lwm-edge remove-class"
    if name.startswith("-"):
        return " ".join([start, *options, "--", _quoted(name)])
    return " ".join([start, _quoted(name), *options])


def home_option(home: Path) -> str:
    """Writes the option that names a home; without it, a command could change another home."""
    return f"--home {quoted(home)}"

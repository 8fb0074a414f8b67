"""Writes to the terminal: decides where text goes, and what is safe to print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from .. import LwmEdgeError
from ..characters import escaped
from ..records import utf8_text

_LISTED = 10
_USUAL_WIDTH = 80


def out() -> Console:
    """Returns a console on standard output."""
    return _console(sys.stdout)


def error_console() -> Console:
    """Returns a console on standard error."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    console = Console(file=stream, highlight=False, soft_wrap=True, emoji=False)
    if console.width < 1:  # COLUMNS=0 stands for an unknown width, at which rich would print nothing
        console.width = _USUAL_WIDTH
    return console


def error(failure: LwmEdgeError) -> None:
    """Prints an error with all its problems."""
    error_console().print(f"[bold red]Error:[/] {safe(str(failure))}")


def note(text: str) -> None:
    """Prints a line on standard error."""
    error_console().print(safe(text))


def safe(text: str) -> str:
    """Escapes text, so that neither markup nor control characters, except newlines, affect the terminal."""
    return escape(escaped(utf8_text(text), kept="\n"))


def percent(value: float | None) -> str:
    """Writes a share as a percentage, or a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}%"


def in_bytes(count: int) -> str:
    """Writes a size in bytes."""
    return f"{count:,} bytes"


def print_rows(title: str, values: dict[str, str]) -> None:
    """Prints a title and a row for each value; a value's further lines are aligned with its first."""
    console, width = out(), max(map(len, values))
    console.print(f"[bold]{safe(title)}")
    below = "\n" + " " * (width + 4)
    for name, value in values.items():  # not in a table, which would cut off long paths
        shown = safe(value).replace("\n", below)
        console.print(f"  {safe(f'{name:<{width}}')}  {shown}")


def listed(names: Sequence[str], most: int = _LISTED) -> str:
    """Lists the first few names, and says how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def joined(names: Sequence[str], most: int = _LISTED) -> str:
    """Lists names as a sentence does, as in "A, B and C"; if there are many, lists only the first few."""
    if len(names) > most or len(names) < 2:
        return listed(names, most)
    return f"{', '.join(names[:-1])} and {names[-1]}"

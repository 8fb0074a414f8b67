"""Writes to the terminal: decides where text goes and what is safe to print, and draws the progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from .. import LwmEdgeError, Progress
from ..records import ProgressCallback, ignore_progress

_PHASES = {
    "photos": "Reading photos",
    "check": "Checking photos",
    "plan": "Planning",
    "features": "Looking at photos",
    "train": "Training",
    "evaluate": "Evaluating",
    "stage": "Writing the bundle",
    "commit": "Exporting and committing",
    "simulate": "Simulating increments",
}
_LISTED = 10
_USUAL_WIDTH = 80


def out() -> Console:
    """Returns a console on standard output."""
    return _console(sys.stdout)


def _err() -> Console:
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    console = Console(file=stream, highlight=False, soft_wrap=True, emoji=False)
    if console.width < 1:  # COLUMNS=0 stands for a width that is not known; rich would print nothing
        console.width = _USUAL_WIDTH
    return console


def error(failure: LwmEdgeError) -> None:
    """Prints an error with all its problems."""
    _err().print(f"[bold red]Error:[/] {safe(str(failure))}")


def note(text: str) -> None:
    """Prints a line on standard error."""
    _err().print(safe(text))


def safe(text: str) -> str:
    """Escapes text so that neither rich's markup nor a file's name can do anything to the terminal."""
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return escape("".join(shown))


@contextmanager
def progress_bar(*, on_terminal_only: bool = False) -> Iterator[ProgressCallback]:
    """Shows a bar on a terminal; elsewhere a line per phase and per tenth of the training, or nothing."""
    console = _err()
    if not console.is_terminal:
        yield ignore_progress if on_terminal_only else _plain_progress()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar  # only a terminal needs to load them

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.fields[loss]}"), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, loss="")

        def show(progress: Progress) -> None:
            for line in progress.notes:
                bar.console.print(safe(f"Note: {line}"))
            loss = f"loss {progress.loss:.3f}" if progress.loss is not None else ""
            bar.update(
                task,
                description=_PHASES[progress.phase],
                completed=progress.done,
                total=progress.total,
                loss=loss,
            )

        yield show


def _plain_progress() -> ProgressCallback:
    """Makes a function that prints a line when a phase begins, and for each tenth of the training."""
    latest = ""

    def show(progress: Progress) -> None:
        nonlocal latest
        for line in progress.notes:
            note(f"Note: {line}")
        name, done = _PHASES[progress.phase], f"{progress.done}/{progress.total}"
        if progress.loss is not None:
            if progress.done % max(1, progress.total // 10) == 0 or progress.done == progress.total:
                note(f"{name} {done}, loss {progress.loss:.3f}")
        elif progress.phase == "simulate":
            note(f"{name} {done} ...")
        elif progress.phase != latest:
            note(f"{name} ...")
        latest = progress.phase

    return show


def percent(value: float | None) -> str:
    """Writes a share as a percentage, for people."""
    return "-" if value is None else f"{100 * value:.1f}%"


def in_bytes(count: int) -> str:
    """Writes a size, to the byte."""
    return f"{count:,} bytes"


def counted(count: int, one: str, many: str) -> str:
    """Writes a number with its noun, such as 1 class, 2 classes."""
    return f"{count:,} {one if count == 1 else many}"


def print_rows(title: str, values: dict[str, str]) -> None:
    """Prints a title and a line for each value, whatever characters they have."""
    console, width = out(), max(map(len, values))
    console.print(f"[bold]{safe(title)}")
    for name, value in values.items():  # not a table: it would cut long paths off
        console.print(f"  {safe(f'{name:<{width}}')}  {safe(value)}")


def listed(names: tuple[str, ...]) -> str:
    """Lists the first few names, and counts the rest."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more

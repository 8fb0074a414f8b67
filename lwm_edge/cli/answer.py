"""Runs the work of a command, and prints its report or its error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import LwmEdgeError
from .._streams import output_failure
from ..errors import ResourceError
from ..records import ProgressCallback, Report
from . import terminal
from .settings import find_home, read_file_config

if TYPE_CHECKING:  # --help need not load what the commands load
    from .. import Home


def fail(error: LwmEdgeError) -> None:
    """Prints an error, for people or as JSON."""
    if "--json" in sys.argv[1:]:
        failure = {
            "kind": type(error).__name__,
            "message": error.message,
            "problems": error.problems,
            "exit_code": error.exit_code,
        }
        print(json.dumps({"error": failure}))
    else:
        terminal.error(error)


def show(report: Report, as_json: bool, show: Callable[[Any], None], *, is_done: bool = False) -> None:
    """Prints a report.

    Args:
        report: Report of what was found or done.
        as_json: Whether to print one line of ASCII, which every terminal and locale can take.
        show: Function that prints the report for people.
        is_done: Whether something was changed or written. If so, a report that cannot be printed is not a
            failure: a script that saw one would repeat the change.
    """
    if as_json:
        print(json.dumps(json.loads(report.model_dump_json())))
    else:
        show(report)
    if failure := output_failure():
        lost = f"cannot write to standard output ({failure.strerror})"
        if not is_done:
            raise ResourceError(f"the report is lost: {lost}; free some space, or send the output elsewhere")
        terminal.note(f"Note: the command has done its work, but its report is lost: {lost}")


def with_progress(work: Callable[[ProgressCallback], Report]) -> Any:
    """Does the work behind a progress bar; an interruption ends the command."""
    try:
        with terminal.progress_bar() as on_progress:
            return work(on_progress)
    except KeyboardInterrupt:
        terminal.note("Interrupted; the model is unchanged.")
        raise typer.Exit(130) from None


def home_path(home: Path | None) -> Path:
    """Returns the path of the home that was chosen by option, environment, file or default."""
    return find_home(home, read_file_config(Path.cwd()))


def open_chosen_home(home: Path | None) -> Home:
    """Opens the home that was chosen by option, environment, file or default."""
    from .. import open_home

    return open_home(home_path(home))

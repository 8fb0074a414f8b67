"""Runs a command, and prints its report or its error."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from .. import LwmEdgeError
from .._streams import output_failure
from ..errors import ConfigError, PeerError, ResourceError, StoppedError
from ..records import ProgressCallback, Report, utf8_name, utf8_text
from . import interruption, terminal
from .progress import progress_shown
from .settings import find_home, leave_a_folder_that_is_gone, read_file_config

if TYPE_CHECKING:  # so that --help does not wait for libraries that only the commands need
    from .. import Home

P = ParamSpec("P")


def command(work: Callable[P, None]) -> Callable[P, None]:
    """Turns a function into a command that ends with a one-sentence message whenever it is told to stop."""

    @functools.wraps(work)
    def run(*given: P.args, **named: P.kwargs) -> None:
        """Runs the command, and raises a StoppedError if it is interrupted."""
        interruption.begin_command(needs_home="home" in named)
        try:
            leave_a_folder_that_is_gone(named)
            work(*given, **{name: _in_utf8(value) for name, value in named.items()})
        except KeyboardInterrupt as request:
            interruption.command.ended = True
            raise interruption.stopped(getattr(request, "exit_code", StoppedError.exit_code)) from None
        except StoppedError as error:  # from the worker; its message says what was saved
            error.exit_code = interruption.command.exit_code or error.exit_code
            raise
        finally:
            interruption.command.ended = True

    return run


def _in_utf8(value: Any) -> Any:
    """Reads text from the command line as UTF-8, whatever the locale; paths keep their bytes."""
    if isinstance(value, str):
        return utf8_name(value)
    return [_in_utf8(item) for item in value] if isinstance(value, list) else value


def fail(error: LwmEdgeError) -> None:
    """Prints an error, for people or as JSON, unless another process prints it."""
    if isinstance(error, PeerError):
        return
    if interruption.wants_json():
        message, problems = utf8_text(error.message), tuple(map(utf8_text, error.problems))
        print(interruption.failure_as_json(type(error).__name__, message, problems, error.exit_code))
        if output_failure():  # the error must not be lost with the document
            terminal.error(error)
    elif isinstance(error, StoppedError):
        terminal.note(str(error))
    else:
        terminal.error(error)


def show(report: Report, as_json: bool, show: Callable[[Any], None], *, is_done: bool = False) -> None:
    """Prints a report.

    Args:
        report: Report to print.
        as_json: Whether to print JSON, as one line of ASCII, which any terminal in any locale can show.
        show: Function that prints the report for people.
        is_done: Whether the command has changed or written something. If so, it does not fail when its report
            cannot be printed, because a script that saw it fail would repeat the change.
    """
    if as_json:
        interruption.command.answered = True
        print(json.dumps(json.loads(report.model_dump_json())).replace("\x7f", "\\u007f"))
    else:
        show(report)
    if failure := output_failure():
        if not is_done:
            raise lost_report(failure)
        terminal.note(f"Note: the command did its work, but its report is lost: {_lost(failure)}")


def lost_report(failure: OSError) -> ResourceError:
    """Makes the error for a command whose only purpose was to print its report."""
    return ResourceError(
        f"the report is lost: {_lost(failure)}; free some space, or send the output elsewhere"
    )


def _lost(failure: OSError) -> str:
    return f"cannot write to standard output ({failure.strerror})"


def with_progress(work: Callable[[ProgressCallback], Any], *, brief: bool = False) -> Any:
    """Does the work and shows its progress; with `brief`, prints lines only for phases that take a while."""
    with progress_shown(brief=brief) as on_progress:
        return work(on_progress)


def home_path(home: Path | None) -> Path:
    """Returns the path of the home that the option, the environment, a file or the default chooses.

    If the command is interrupted later, it says whether the model in this home has changed.
    """
    path = find_home(home, read_file_config())
    interruption.watch(path)
    return path


def bundle_or_home(bundle: Path | None, home: Path | None) -> Path | Home:
    """Returns the path of the bundle that a command was given, or else opens the chosen home."""
    if bundle and home:
        raise ConfigError("a bundle and --home were both given; give the one that is meant")
    return bundle or open_chosen_home(home)


def open_chosen_home(home: Path | None) -> Home:
    """Opens the home that the option, the environment, a file or the default chooses."""
    from .. import open_home

    return open_home(home_path(home))

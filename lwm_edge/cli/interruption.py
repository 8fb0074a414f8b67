"""Ends a command on Ctrl-C or SIGTERM, with a message about the state that it leaves behind.

The exit code is 130 or 143, as shells expect. This module is set up before the libraries load, so it imports
none of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import StoppedError

_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Interruption(KeyboardInterrupt):
    """Signals that the process was told to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class _Command:
    """Holds what is known about the command that this process runs.

    Attributes:
        started: Whether the command has begun its work; before that, only libraries load.
        ended: Whether the command is done or has failed, so that only its last message is left to print.
        needs_home: Whether the command works with a home; until the home is found, nothing is changed.
        home: Path of that home; None until it is found.
        link_before: Target of the home's link `current` before the work; None if there was no link.
        exit_code: Exit code of the latest request to stop, if there was one.
        answered: Whether the one JSON document that standard output may hold has begun to be printed.
    """

    started = False
    ended = False
    needs_home = False
    home: Path | None = None
    link_before: str | None = None
    exit_code: int | None = None
    answered = False


command = _Command()


def handle_requests_to_stop() -> None:
    """Handles SIGINT and SIGTERM from now on, unless they are ignored, as in a shell's background job."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):  # outside the main thread, Python does not let us handle signals
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _stop)
    sys.unraisablehook = _end_if_interrupted


def ignore_requests_to_stop() -> None:
    """Ignores SIGINT and SIGTERM from now on, because the work is done and Python itself is about to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError):
            signal.signal(number, signal.SIG_IGN)


def begin_command(*, needs_home: bool) -> None:
    """Notes that a command begins its work."""
    command.started, command.ended, command.answered = True, False, False
    command.needs_home = needs_home
    command.home, command.link_before, command.exit_code = None, None, None


def watch(home: Path) -> None:
    """Notes which home a command works with, so that `stopped` can say whether its model was changed."""
    command.home, command.link_before = home, _link(home)


def stopped(exit_code: int) -> StoppedError:
    """Makes the error that ends a command that was told to stop."""
    error = StoppedError(_message())
    error.exit_code = exit_code
    return error


def wants_json() -> bool:
    """Returns whether an error is to be printed as JSON."""
    return "--json" in sys.argv[1:] and not command.answered


def failure_as_json(kind: str, message: str, problems: tuple[str, ...], exit_code: int) -> str:
    """Returns a failed command's error as the single JSON document that goes to standard output."""
    failure = {"kind": kind, "message": message, "problems": problems, "exit_code": exit_code}
    return json.dumps({"error": failure})


def _stop(number: int, frame: FrameType | None) -> None:
    if command.ended:
        return
    command.exit_code = 128 + number
    if not command.started or _is_importing(frame):  # an import can swallow or replace an exception
        end_at_once(128 + number)
    raise Interruption(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end_if_interrupted(unraisable: Any) -> None:
    """Ends the process if an interruption hit a callback, from which no exception can escape."""
    if isinstance(unraisable.exc_value, Interruption):
        end_at_once(unraisable.exc_value.exit_code)
    sys.__unraisablehook__(unraisable)


def end_at_once(exit_code: int) -> None:
    """Prints the message and ends the process as abruptly as a kill, which a home survives at any moment."""
    message = _message()
    with suppress(OSError):
        if wants_json():
            os.write(1, f"{failure_as_json('StoppedError', message, (), exit_code)}\n".encode())
        else:
            os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}{message}\n".encode())
    os._exit(exit_code)


def _message() -> str:
    if not command.started or (command.needs_home and command.home is None):
        return "Interrupted; nothing was changed."
    if command.home is None:
        return "Interrupted; each file to be written is either complete or as it was before."
    link = _link(command.home)
    if link != command.link_before:
        return "Interrupted, but the change had already been made: the home has the new model."
    return "Interrupted; no home was made." if link is None else "Interrupted; the model is unchanged."


def _link(home: Path) -> str | None:
    try:
        return os.readlink(home / "current")  # noqa: PTH115 - a Path would change how the target is written
    except OSError:
        return None

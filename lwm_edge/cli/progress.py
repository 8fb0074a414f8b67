"""Shows how far a command has got and how much longer the current phase will take, as a bar or in lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..records import Progress, ProgressCallback
from ..wording import counted
from .terminal import error_console, note, safe

_PHASES = {
    "photos": "Reading photos",
    "check": "Checking photos",
    "plan": "Planning",
    "features": "Looking at photos",
    "train": "Training",
    "head": "Training the head",
    "evaluate": "Evaluating",
    "stage": "Preparing the new model",
    "commit": "Saving and checking the new model",
    "export": "Making and checking the ONNX file",
    "page": "Making the page",
    "busy": "Waiting until another change of the home is done",
    "wait": "Waiting for the photos to stay unchanged",
    "simulate": "Simulating increments",
}
_SECONDS_BETWEEN_LINES = 10.0
_WORTH_A_LINE = 2.0  # a brief command announces phases that are expected to take at least this many seconds
_MINUTE, _HOUR = 60, 3600


@contextmanager
def progress_shown(*, brief: bool = False) -> Iterator[ProgressCallback]:
    """Shows a bar on a terminal; elsewhere, prints a line when a phase begins and every ten seconds.

    Args:
        brief: Whether the command usually ends at once; lines then announce only phases that take a while.
    """
    console = error_console()
    if not console.is_terminal:
        yield plain_lines(brief=brief)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar  # needed on a terminal only

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, TextColumn("{task.fields[rest]}"), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rest="", visible=False)
        pace = Pace()

        def show(progress: Progress) -> None:
            """Updates the bar, and prints any notes above it."""
            for line in progress.notes:
                bar.console.print(safe(f"Note: {line}"))
            if begins := pace.begins(progress):
                bar.reset(task, total=progress.total)  # the elapsed time starts again with each phase
            to_go = _to_go(pace.seconds_to_go(progress)) or _expected_time(progress)
            words = [_loss(progress), to_go]
            bar.update(
                task,
                description=_PHASES[progress.phase],
                completed=progress.done,
                total=progress.total,
                rest=", ".join(filter(None, words)),
                visible=True,
                refresh=begins,  # a phase may be over before the next regular refresh
            )

        yield show


class Pace:
    """Notices when a new phase begins, and estimates how much longer the current one will take.

    Args:
        clock: Function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest: Progress | None = None
        self._began_at, self._done_before = 0.0, 0

    def begins(self, progress: Progress) -> bool:
        """Notes a report; returns whether it is the first of its phase, or of a new round of that phase."""
        before, self._latest = self._latest, progress
        goes_on = (
            before is not None
            and (before.phase, before.total) == (progress.phase, progress.total)
            and before.done <= progress.done
        )
        if not goes_on:
            self._began_at, self._done_before = self._clock(), progress.done
        return not goes_on

    def seconds_to_go(self, progress: Progress) -> float | None:
        """Estimates the rest of the phase from its steps so far.

        Returns:
            Seconds to go; None before the first step and after the last.
        """
        done = progress.done - self._done_before
        if done <= 0 or progress.done >= progress.total:
            return None
        return (self._clock() - self._began_at) / done * (progress.total - progress.done)


def plain_lines(clock: Callable[[], float] = time.monotonic, *, brief: bool = False) -> ProgressCallback:
    """Makes a function that prints a line when a phase begins, and every ten seconds.

    Training and simulations begin without a line. Each tenth of the training and each increment prints one.

    Args:
        clock: Function that returns the time in seconds.
        brief: Whether to announce only phases that take a while.
    """
    pace, printed_at = Pace(clock), clock() if brief else 0.0
    phase = ""

    def show(progress: Progress) -> None:
        """Prints any notes, and a line of progress if it is time for one."""
        nonlocal printed_at, phase
        for line in progress.notes:
            note(f"Note: {line}")
        pace.begins(progress)
        name, now, is_new = _PHASES[progress.phase], clock(), progress.phase != phase
        phase = progress.phase
        if is_new and _begins_with_a_line(progress, brief):
            note(f"{', '.join(filter(None, [_phase_and_count(progress), _expected_time(progress)]))} ...")
        elif now - printed_at >= _SECONDS_BETWEEN_LINES or _is_due(progress):
            count = f" {progress.done}/{progress.total}" if progress.total > 1 else " ..."
            words = [name + count, _loss(progress), _to_go(pace.seconds_to_go(progress))]
            note(", ".join(filter(None, words)))
        else:
            return
        printed_at = now

    return show


def _begins_with_a_line(progress: Progress, brief: bool) -> bool:
    """Returns whether to announce a new phase with a line at once."""
    if progress.loss is not None or progress.phase == "simulate":  # these print lines of their own
        return False
    return not brief or progress.phase == "busy" or (progress.expected_seconds or 0.0) >= _WORTH_A_LINE


def _phase_and_count(progress: Progress) -> str:
    """Names a phase, and counts its photos or steps."""
    name = _PHASES[progress.phase]
    if name.endswith("photos"):
        return name.removesuffix("photos") + counted(progress.total, "photo", "photos")
    unit = "s" if progress.phase == "wait" else "steps"
    return f"{name}, {progress.total:,} {unit}" if progress.total > 1 else name


def _expected_time(progress: Progress) -> str:
    """Says how long a phase is expected to take; says nothing once its first step is done."""
    seconds = progress.expected_seconds
    return "" if seconds is None or progress.done else f"takes about {_time(seconds)}"


def _is_due(progress: Progress) -> bool:
    """Returns whether to print a line at once: after a simulated increment or a tenth of the training."""
    if progress.loss is None:
        return progress.phase == "simulate"
    return progress.done % max(1, progress.total // 10) == 0 or progress.done == progress.total


def _loss(progress: Progress) -> str:
    return f"loss {progress.loss:.3f}" if progress.loss is not None else ""


def _to_go(seconds: float | None) -> str:
    return "" if seconds is None else f"about {_time(seconds)} to go"


def _time(seconds: float) -> str:
    if seconds >= _HOUR:
        return f"{seconds / _HOUR:.1f} h"
    if seconds >= 2 * _MINUTE:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{max(1, round(seconds))} s"

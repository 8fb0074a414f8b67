"""Measures how long an owner waits, from the command's start, and how long each part takes."""

from __future__ import annotations

import time

from ..records import Progress, ProgressCallback

START = "start"
"""Part before the first report of progress: starting the command and its process, and opening the model."""


class Timer:
    """Adds up the time of each part of an increment; parts begin where progress enters a new phase.

    Attributes:
        started: Value of time.monotonic() when the command or the call began.

    Args:
        started: Value of time.monotonic() when the command or the call began; every process has the same
            clock.
        parts: Seconds of the parts that another process has already done.
    """

    def __init__(self, started: float, parts: dict[str, float] | None = None) -> None:
        self.started = started
        self._parts = dict(parts or {})
        self._part = START if not self._parts else next(reversed(self._parts))
        self._since = started + sum(self._parts.values())

    def watching(self, on_progress: ProgressCallback) -> ProgressCallback:
        """Makes a function that passes progress on, and notes when a part begins."""

        def report(progress: Progress) -> None:
            """Begins the part that this progress belongs to, and passes the progress on."""
            self.begin(progress.phase)
            on_progress(progress)

        return report

    def begin(self, part: str) -> None:
        """Ends the current part, and begins or continues the given one."""
        now = time.monotonic()
        self._parts[self._part] = self._parts.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    def seconds(self) -> float:
        """Returns the time since the command's start."""
        return time.monotonic() - self.started

    def parts(self) -> dict[str, float]:
        """Returns the seconds of each part so far, including the current one; they add up to `seconds`."""
        self.begin(self._part)
        return {part: round(seconds, 3) for part, seconds in self._parts.items()}

"""Keeps the finished steps of a run, so that a run that was killed can continue after the last one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from provenance import provenance

from lwm_edge.outputs import write_output

Step = dict[str, Any]


class KeptSteps:
    """Keeps the steps of one run in a file, which is atomically replaced after each step.

    Args:
        path: Path of the file.
        settings: Settings of the run; steps in the file that were made with other settings are dropped.

    Attributes:
        steps: Finished steps so far.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings, self._started = path, settings, time.monotonic()
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("settings") != settings:
            kept = {"steps": [], "commits": [], "seconds": 0.0}
        self.steps: list[Step] = kept["steps"]
        self._seconds_before: float = kept["seconds"]
        self._commits = list(dict.fromkeys([*kept["commits"], provenance()["commit"]]))

    @property
    def seconds(self) -> float:
        """Returns how long the run has taken, without the time that was lost to kills."""
        return self._seconds_before + time.monotonic() - self._started

    def add(self, step: Step) -> None:
        """Adds a finished step, and writes the file."""
        self.steps.append(step)
        kept = {"settings": self._settings, "commits": self._commits, "seconds": self.seconds}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_output(self._path, json.dumps(kept | {"steps": self.steps}).encode())

    def provenance(self) -> dict[str, Any]:
        """Returns the machine, and the commits with which the steps were made."""
        commits = [commit for commit in self._commits if commit]
        return provenance() | {"commit": ", ".join(commits) or None}

    def forget(self) -> None:
        """Removes the file: the run is finished, and its result is elsewhere."""
        self._path.unlink(missing_ok=True)

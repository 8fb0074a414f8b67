"""Runs an increment in a forked process, which reports its phases on a pipe; `crash.py` kills the process."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwm_edge import IncrementConfig, _disk, add_classes, durability, inspection, locks, storage
from lwm_edge.home.home import Home
from lwm_edge.home.ownership import GENERATIONS
from lwm_edge.records import Progress

PHASES = (
    "start", "photos", "plan", "features", "train", "evaluate", "stage", "export", "staging", "link",
    "clean-up",
)  # fmt: skip
COMMIT = ("staging", "link", "clean-up")
END = "end"

Report = Callable[[str], None]


class ReportingDisk:
    """Replaces `_disk`, and sees each operation first; subclasses derive the phases from the operations.

    Args:
        disk: Disk that performs the operations.
        report: Function that is called when a phase begins, with its name.
    """

    def __init__(self, disk: Any, report: Report) -> None:
        self.disk, self.report, self.phase = disk, report, ""

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.disk, name)

        def run(*arguments: Any) -> Any:
            self.note(name, arguments[0])
            return operation(*arguments)

        return run

    def note(self, operation: str, argument: Any) -> None:
        """Enters the phase that an operation belongs to."""

    def enter(self, phase: str) -> None:
        """Reports that a phase begins."""
        self.phase = phase
        self.report(phase)


class CommitDisk(ReportingDisk):
    """Reports the phases of a commit."""

    exporting = False

    def note(self, operation: str, argument: Any) -> None:
        """Enters the phase that an operation belongs to."""
        if operation == "create_file" and argument.parent.parent.name == GENERATIONS and self.exporting:
            self.enter("staging")
        elif operation == "symlink":
            self.enter("link")
        elif self.phase == "link" and operation == "unlink":
            self.enter("clean-up")


def run_increment(home: Path, photos: Path, config: IncrementConfig, pipe: int) -> None:
    """Makes an increment in the child process, and reports its phases; never returns."""
    status = 1
    try:
        last = "start"

        def report(phase: str) -> None:
            nonlocal last
            if phase != last:
                tell(pipe, phase)
            last = phase

        def report_progress(progress: Progress) -> None:
            disk.exporting = progress.phase == "commit"
            report("export" if disk.exporting else progress.phase)

        disk = CommitDisk(_disk, report)
        for module in (inspection, durability, storage, locks):
            vars(module)["_disk"] = disk
        add_classes(Home(home), photos, config, on_progress=report_progress, isolate=False)
        tell(pipe, END)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def start_increment(home: Path, photos: Path, config: IncrementConfig) -> tuple[int, int]:
    """Forks a process that makes an increment; returns its id, and the pipe with its reports of phases."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        run_increment(home, photos, config, writing)
    os.close(writing)
    return process, reading


def tell(pipe: int, phase: str) -> None:
    """Writes to a pipe that a phase begins, and when."""
    os.write(pipe, f"{phase}\t{time.monotonic()}\n".encode())


def phases_in(told: bytes) -> dict[str, float]:
    """Returns the time at which each phase began, from the text that a process wrote to its pipe."""
    phases: dict[str, float] = {}
    for line in told.decode().splitlines():
        phase, at = line.split("\t")
        phases.setdefault(phase, float(at))
    return phases


def wait_for(pipe: int, phase: str) -> bytes:
    """Reads the pipe until a phase begins or the process ends, and returns the text."""
    told = b""
    while not any(line.startswith(phase.encode()) for line in told.splitlines()):
        news = os.read(pipe, 4096)
        if not news:
            break
        told += news
    return told

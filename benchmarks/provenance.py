"""Records the commit and the machine of a result; imports nothing that takes much memory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Returns the machine and the checkout's commit: None if there is none, with `-dirty` if files differ."""
    return {"commit": _commit(), "machine": _machine()}


def _commit() -> str | None:
    return _output_of("git", "describe", "--always", "--dirty", "--exclude=*")


def _output_of(*command: str) -> str | None:
    """Returns what a program prints; None if it prints nothing, or is not installed."""
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        return None
    return found.strip() or None


def _machine() -> dict[str, Any]:
    machine: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": metadata.version("torch"),
        "lwm_edge": metadata.version("lwm-edge"),
    }
    gpu = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return machine | ({"gpu": gpu} if gpu else {})


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()

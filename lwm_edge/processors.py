"""Counts the processors that this process may use, as its affinity and its cgroups allow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ._cgroups import levels


def thread_settings() -> dict[str, str]:
    """Returns the environment variables that tell libraries, when they load, how to run their threads.

    Waiting threads sleep. If they kept spinning, they would take the cores from other programs, and from each
    other when the cores are busy. There is one thread for each processor that this process may use: left to
    themselves, libraries would count all processors of the machine.
    """
    return {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(usable_processors())}


def usable_processors() -> int:
    """Returns how many threads can run at once: one per allowed processor, or fewer if a cgroup says so."""
    known = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min([processors, *(max(1, math.ceil(share)) for share in _cgroup_shares())])


def _cgroup_shares() -> Iterator[float]:
    """Yields the limit of each cgroup of this process that has one, as a number of processors."""
    for version, folder in levels("cpu"):
        with suppress(OSError, ValueError):  # "max" is not a number: there is no limit
            quota, period = _quota_v2(folder) if version == 2 else _quota_v1(folder)
            if quota > 0 and period > 0:  # version 1 writes "no limit" as -1
                yield quota / period


def _quota_v2(cgroup: Path) -> tuple[int, int]:
    quota, period = (cgroup / "cpu.max").read_text().split()
    return int(quota), int(period)


def _quota_v1(cgroup: Path) -> tuple[int, int]:
    return tuple(int((cgroup / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))  # type: ignore[return-value]

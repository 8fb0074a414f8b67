"""Measures how much memory this process uses and may take, and says what to do when memory runs out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import psutil

from ._cgroups import levels
from .errors import ResourceError, ran_out_of_memory

_STATUS = Path("/proc/self/status")
_CGROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}


ASSUMED_BYTES = 2**29
"""Bytes of memory that are assumed to be available on a machine that says nothing about its memory."""

_NO_LIMIT_FROM_BYTES = 2**60  # cgroups of version 1 write "no limit" as a number near 2**63


def peak_rss_bytes() -> int:
    """Returns the largest resident memory that this process has had since it started, or since a reset."""
    if _STATUS.exists():  # getrusage would give a child its parent's peak
        return _status("VmHWM")
    try:
        import resource
    except ImportError:  # Windows
        with suppress(psutil.Error, AttributeError):
            return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]
        return rss_bytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_rss() -> bool:
    """Lowers the high-water mark to the memory resident now; returns False if the kernel cannot do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def rss_bytes() -> int:
    """Returns the resident memory of this process now; 0 if the system does not say."""
    if _STATUS.exists():
        return _status("VmRSS")
    with suppress(OSError, psutil.Error):
        return int(psutil.Process().memory_info().rss)
    return 0


def resident_parts() -> tuple[int, int] | None:
    """Returns the resident bytes in two parts: anonymous, and file-mapped or shared; None if unknown."""
    if not _STATUS.exists():
        return None
    return _status("RssAnon"), _status("RssFile") + _status("RssShmem")


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def available_memory_bytes() -> int:
    """Returns how many more bytes this process can take, on this machine and in its cgroups.

    If neither the machine nor a cgroup says anything, this returns `ASSUMED_BYTES`.
    """
    return min(_known_available(), default=ASSUMED_BYTES)


def available_memory_is_known() -> bool:
    """Returns whether the machine or a cgroup says how much memory is left."""
    return bool(_known_available())


def _known_available() -> list[int]:
    return [*_machine_available(), *_cgroup_headroom()]


def _machine_available() -> Iterator[int]:
    """Yields the memory available on the machine, if known: a service may be unable to see /proc/meminfo.

    Without that file, only free pages are counted, not those that the kernel could reclaim.
    """
    with suppress(OSError, psutil.Error, ValueError, KeyError):
        yield int(psutil.virtual_memory().available)
        return
    with suppress(OSError, ValueError, AttributeError):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if free > 0:
            yield free


def tree_rss_bytes() -> int:
    """Returns the resident memory of this process and its descendants; 0 if the system does not say."""
    total = 0
    with suppress(OSError, psutil.Error):
        process = psutil.Process()
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # the process ended meanwhile
                total += member.memory_info().rss
    return total


@contextmanager
def cgroup_peak() -> Iterator[Callable[[], tuple[int | None, str]]]:
    """Yields a function that reads the high-water mark of the innermost memory cgroup that keeps one.

    With cgroups of version 2, from Linux 6.12 on, the mark is reset first, which affects only the open file
    that asks for it. With version 1, a reset would affect all readers, so the mark is not reset.

    Yields:
        A function that returns the mark in bytes (None without such a cgroup) and how it was measured.
    """
    path = next((path for path in _cgroup_peak_files() if path.is_file()), None)
    if path is None:
        yield lambda: (None, "this process is in no memory cgroup that keeps a high-water mark")
        return
    file, since = _open_and_reset(path)
    how = f"{path.name} of this process's cgroup, {since}; it counts all processes in the cgroup"

    def read() -> tuple[int | None, str]:
        """Returns the mark in bytes, and how it was measured."""
        file.seek(0)
        return int(file.read()), how

    with file:
        yield read


def _open_and_reset(path: Path) -> tuple[FileIO, str]:
    if path.name == "memory.peak":
        with suppress(OSError):
            file = FileIO(path, "r+")
            try:
                file.write(b"reset")
            except OSError:  # before Linux 6.12
                file.close()
            else:
                return file, "reset at the start"
    return FileIO(path), "since the cgroup began"


def _cgroup_peak_files() -> Iterator[Path]:
    names = {"memory.limit_in_bytes": "memory.max_usage_in_bytes", "memory.max": "memory.peak"}
    return (limit.with_name(names[limit.name]) for limit, _ in _cgroup_files())


def _cgroup_headroom() -> Iterator[int]:
    """Yields how many bytes are left in each memory cgroup of this process that has a limit.

    That is the limit less what the cgroup uses, not counting file pages that the kernel can reclaim.
    """
    for limit, use in _cgroup_files():
        with suppress(OSError, ValueError):  # "max" is not a number: there is no limit
            most = int(limit.read_text())
            if most < _NO_LIMIT_FROM_BYTES:
                yield max(0, most - int(use.read_text()) + _reclaimable(limit.parent))


def _reclaimable(cgroup: Path) -> int:
    """Returns the bytes of file pages that count as used, but that the kernel drops when memory is short."""
    with suppress(OSError):
        text = (cgroup / "memory.stat").read_text()
        found = re.search(r"^total_inactive_file (\d+)", text, re.MULTILINE)
        found = found or re.search(r"^inactive_file (\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def _cgroup_files() -> Iterator[tuple[Path, Path]]:
    """Yields two files, limit and usage, for this process's memory cgroup and for each one above it."""
    for version, folder in levels("memory"):
        limit, use = _CGROUP_FILES[version]
        yield folder / limit, folder / use


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turns MemoryErrors, and RuntimeErrors that say that memory ran out, into ResourceErrors."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if ran_out_of_memory(error):
            raise ResourceError(
                "memory ran out; the model is unchanged: try again with a lower --max-memory, or with other "
                "programs closed"
            ) from error
        raise

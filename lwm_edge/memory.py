"""Measures how much memory this process uses, and says what to do when there is no more."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from ._cgroups import levels
from .errors import ResourceError, ran_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

_STATUS = Path("/proc/self/status")
_CGROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # constants of glibc's malloc.h
ASSUMED_BYTES = 2**29
"""Memory that is taken to be free on a machine that says nothing about its memory."""

_UNMAP_FROM_BYTES = 64 * 1024
_NO_LIMIT_FROM_BYTES = 2**60  # cgroups of version 1 write "no limit" as a number near 2**63
_KEPT_BLOCK, _KEPT_HEAP = 2**25, 2**30  # the former is the most that glibc accepts
_MADV_DONTNEED = 4  # a constant of mman.h
_PAGEMAP = Path("/proc/self/pagemap")
_PAGE_STATE = np.uint64(1 << 63 | 1 << 61)  # resident, and a file's: once written to, a private page is not
_LIBRARY_PERMISSIONS = ("r--p", "r-xp")  # private to this process, as the loader maps code and constants
_processes_of_ours: set[int] = set()


def peak_rss_bytes() -> int:
    """Returns the kernel's high-water mark of this process's resident memory since start or reset."""
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
    """Lowers the high-water mark to what is resident now; returns False if the kernel does not offer that."""
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
    """Returns the resident memory now, anonymous and mapped from files or shared; None if unknown."""
    if not _STATUS.exists():
        return None
    return _status("RssAnon"), _status("RssFile") + _status("RssShmem")


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def available_memory_bytes() -> int:
    """Returns what this process could still take: the machine's available memory, or its cgroup's if less.

    Where neither is known, it returns `ASSUMED_BYTES`.
    """
    return min(_known_available(), default=ASSUMED_BYTES)


def available_memory_is_known() -> bool:
    """Returns whether the machine or a cgroup says how much memory is left."""
    return bool(_known_available())


def _known_available() -> list[int]:
    return [*_machine_available(), *_cgroup_headroom()]


def _machine_available() -> Iterator[int]:
    """Yields the memory available on the machine, if known: a service may see no /proc/meminfo.

    The kernel's own call, which needs no file, counts free pages alone, without those that it could reclaim.
    """
    with suppress(OSError, psutil.Error, ValueError, KeyError):
        yield int(psutil.virtual_memory().available)
        return
    with suppress(OSError, ValueError, AttributeError):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if free > 0:
            yield free


def tree_rss_bytes() -> int:
    """Returns the resident memory of this process and all its children; 0 if the system does not say."""
    total = 0
    with suppress(OSError, psutil.Error):
        process = psutil.Process()
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # the process ended meanwhile
                total += member.memory_info().rss
    return total


@contextmanager
def cgroup_peak() -> Iterator[Callable[[], tuple[int | None, str]]]:
    """Yields a function that reads the high-water mark of this process's own memory cgroup, if it has one.

    Cgroups of version 2 reset it for one open file alone (from Linux 6.12 on). Those of version 1 would reset
    it for everybody, so there it is read as it stands.

    Yields:
        A function that returns the mark in bytes (None without such a cgroup), and how it was taken.
    """
    path = next((path for path in _cgroup_peak_files() if path.is_file()), None)
    if path is None:
        yield lambda: (None, "this process is in no memory cgroup that keeps a high-water mark")
        return
    file, since = _open_and_reset(path)
    how = f"{path.name} of this process's cgroup, {since}; all processes in it"

    def read() -> tuple[int | None, str]:
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
    """Yields the limit less the use of every memory cgroup that this process is in, version 1 or 2."""
    for limit, use in _cgroup_files():
        with suppress(OSError, ValueError):  # "max" is not a number, and not a limit
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
    """Yields the files with limit and use of this process's memory cgroup and of those around it."""
    for version, folder in levels("memory"):
        limit, use = _CGROUP_FILES[version]
        yield folder / limit, folder / use


def bound_allocator() -> bool:
    """Makes freed tensors leave this process at once; returns False if the allocator is not glibc's.

    Large blocks are mapped one by one and unmapped when freed, and all threads share one arena, so peak
    memory is what is alive at once, without what fragmentation would add. Each block's pages are cleared
    again for that, which can double the time of a step: see `freed_memory_kept`. Call it where a process of
    ours begins.
    """
    bounded = _set_allocator(_UNMAP_FROM_BYTES, _UNMAP_FROM_BYTES)
    _processes_of_ours.add(os.getpid())
    return bounded


@contextmanager
def freed_memory_kept(keep: bool) -> Iterator[None]:
    """Keeps freed tensors in this process for the next ones, within the block: faster, but takes more memory.

    Does nothing in a process where `bound_allocator` was not called: there, the allocator is the caller's.
    """
    keep = keep and os.getpid() in _processes_of_ours
    if keep:
        _set_allocator(_KEPT_BLOCK, _KEPT_HEAP)
    try:
        yield
    finally:
        if keep:
            _set_allocator(_UNMAP_FROM_BYTES, _UNMAP_FROM_BYTES)


def _set_allocator(mapped_from: int, kept_bytes: int) -> bool:
    """Sets glibc's allocator; see mallopt(3) and malloc_trim(3)."""
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, mapped_from),
        (_M_TRIM_THRESHOLD, kept_bytes),
        (_M_ARENA_MAX, 1),
    )
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings]
    malloc_trim(0)
    return all(taken)


def mapped_from(path: Path, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Picks the tensors that lie in a private mapping of a file; none where the system does not tell.

    `safetensors` maps files today, but nothing promises it. See proc(5), maps.
    """
    file = os.path.realpath(path)
    spans = [_span(m.addr) for m in _memory_maps() if m.path == file and m.perms[-1] == "p"]

    def is_mapped(tensor: Tensor) -> bool:
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        return any(start <= first and last <= end for start, end in spans)

    return tuple(filter(is_mapped, tensors))


def drop_mapped_pages(tensors: Iterable[Tensor]) -> None:
    """Gives the whole pages of tensors mapped from a file back to the system, until they are read again.

    The file's content stays in the kernel's cache, outside this process. Pages that are not a file's, or that
    have been written to since they were mapped, would be lost: they stay, and so does everything where the
    system does not tell. See madvise(2), MADV_DONTNEED, and proc(5), pagemap.
    """
    try:
        pagemap = os.open(_PAGEMAP, os.O_RDONLY)
    except OSError:
        return
    try:
        for tensor in tensors:
            first = -(-tensor.data_ptr() // mmap.PAGESIZE)
            last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE
            for start, end in _unchanged_pages(pagemap, first, last):
                _drop_pages(start * mmap.PAGESIZE, end * mmap.PAGESIZE)
    finally:
        os.close(pagemap)


def _unchanged_pages(pagemap: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yields runs of pages that are resident and still a file's own, each as its first page and its end."""
    if last <= first:
        return
    entry = np.dtype(np.uint64)
    try:
        content = os.pread(pagemap, (last - first) * entry.itemsize, first * entry.itemsize)
    except OSError:
        return
    entries = np.frombuffer(content[: len(content) // entry.itemsize * entry.itemsize], entry)
    unchanged = (entries & _PAGE_STATE) == _PAGE_STATE
    edges = np.flatnonzero(np.diff(unchanged, prepend=False, append=False)) + first
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def drop_library_pages() -> None:
    """Gives the pages of library code and constants back to the system, until they are read again.

    Importing torch reads some 100 MiB of them, and training a third of that. Only what is mapped from a file,
    read-only and unchanged (no relocation, no debugger's breakpoint) is given back, and only in a
    process of ours; shared mappings, such as a GPU driver's, are left alone. The kernel still has the content
    in its cache. See madvise(2), MADV_DONTNEED, and proc(5), smaps.

    Where the system does not tell what is mapped, nothing is given back.
    """
    if os.getpid() not in _processes_of_ours:
        return
    for mapped in _memory_maps():
        if (
            mapped.path[0] == "/"
            and mapped.perms in _LIBRARY_PERMISSIONS
            and mapped.anonymous + mapped.swap == 0
        ):
            _drop_pages(*_span(mapped.addr))


def _memory_maps() -> list[Any]:
    """Lists what is mapped into this process; nothing where the system does not tell."""
    if sys.platform != "linux":
        return []
    try:
        maps: list[Any] = psutil.Process().memory_maps(grouped=False)
    except (psutil.Error, OSError, ValueError):  # ValueError comes from lines that psutil does not know
        return []
    return maps


def _span(addresses: str) -> tuple[int, int]:
    start, _, end = addresses.partition("-")
    return int(start, 16), int(end, 16)


def _drop_pages(start: int, end: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turns every way in which memory can run out into a ResourceError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if ran_out_of_memory(error):
            raise ResourceError(
                "memory ran out; the model is unchanged: try again with a lower --max-memory, or with other "
                "programs closed"
            ) from error
        raise

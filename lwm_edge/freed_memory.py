"""Gives memory back to the system: what the allocator keeps, and pages that can be read from a file again."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

if TYPE_CHECKING:
    from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # constants of glibc's malloc.h
_UNMAP_FROM_BYTES = 64 * 1024
_KEPT_BLOCK, _KEPT_HEAP = 2**25, 2**30  # the former is the most that glibc accepts
_MADV_DONTNEED = 4  # a constant of mman.h
_PAGEMAP = Path("/proc/self/pagemap")
# Bits that pagemap sets for a resident page of a file; a page of a private mapping has them until it is
# written to.
_PAGE_STATE = np.uint64(1 << 63 | 1 << 61)
_LIBRARY_PERMISSIONS = ("r--p", "r-xp")  # private mappings; the loader maps code and constants in this way
_processes_of_ours: set[int] = set()


def bound_allocator() -> bool:
    """Makes the allocator give freed tensors' memory back to the system at once.

    Each large block is mapped separately and unmapped when freed, and all threads share one arena. So peak
    memory is that of the blocks in use at the same time, and fragmentation adds little. The price is that the
    pages of each new block are cleared, which can double the time of a step: see `freed_memory_kept`. Call
    this at the start of a process of our own. Returns whether the allocator accepts this; only glibc's does.
    """
    bounded = _set_allocator(_UNMAP_FROM_BYTES, _UNMAP_FROM_BYTES)
    _processes_of_ours.add(os.getpid())
    return bounded


@contextmanager
def freed_memory_kept(keep: bool) -> Iterator[None]:
    """Keeps freed tensors' memory for later tensors in the `with` block: faster, but takes more memory.

    Does nothing in a process where `bound_allocator` was not called: there, the allocator is not ours to set.
    """
    keep = keep and os.getpid() in _processes_of_ours
    if keep:
        _set_allocator(_KEPT_BLOCK, _KEPT_HEAP)
    try:
        yield
    finally:
        if keep:
            _set_allocator(_UNMAP_FROM_BYTES, _UNMAP_FROM_BYTES)


def give_freed_memory_back() -> None:
    """Gives back to the system what libraries have freed by now, if this is a process of our own."""
    if os.getpid() in _processes_of_ours:
        _set_allocator(_UNMAP_FROM_BYTES, _UNMAP_FROM_BYTES)


def _set_allocator(unmap_from_bytes: int, kept_bytes: int) -> bool:
    """Sets glibc's allocator; see mallopt(3) and malloc_trim(3)."""
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, unmap_from_bytes),
        (_M_TRIM_THRESHOLD, kept_bytes),
        (_M_ARENA_MAX, 1),
    )
    accepted = [mallopt(parameter, value) == 1 for parameter, value in settings]
    malloc_trim(0)
    return all(accepted)


def mapped_from(path: Path, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Picks the tensors that lie in a private mapping of a file; none if the system does not say which do.

    `safetensors` maps files today, but does not promise to. See proc(5), maps.
    """
    file = os.path.realpath(path)
    spans = [_span(m.addr) for m in _memory_maps() if m.path == file and m.perms[-1] == "p"]

    def is_mapped(tensor: Tensor) -> bool:
        """Tells whether the whole tensor lies in one of the file's mappings."""
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        return any(start <= first and last <= end for start, end in spans)

    return tuple(filter(is_mapped, tensors))


def drop_mapped_pages(tensors: Iterable[Tensor]) -> None:
    """Gives the pages of mapped tensors back to the system; the kernel loads them from the file when needed.

    Only pages that lie wholly within a tensor are given back. The file's content stays in the kernel's cache,
    outside this process. Pages that belong to no file, or that have been written to since they were mapped,
    would be lost, so they stay. Where the system does not say which these are, all pages stay. See
    madvise(2), MADV_DONTNEED, and proc(5), pagemap.
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
    """Yields runs of resident pages that still belong to a file, each as its start and end page number."""
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

    Importing torch reads some 100 MiB of them, and training needs a third of that. A file's mapping is given
    back only if it is read-only and none of its pages was changed (by a relocation or a debugger's
    breakpoint, for example), and only in a process of our own. Shared mappings, such as a GPU driver's, are
    left alone. The content stays in the kernel's cache. See madvise(2), MADV_DONTNEED, and proc(5), smaps.

    Where the system does not say what is mapped, nothing is given back.
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
    """Lists what is mapped into this process; nothing where the system does not say."""
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

"""How much memory this process uses, and what to say when there is no more."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ResourceError

_STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int:
    """The kernel's high-water mark of this process's resident memory."""
    if _STATUS.exists():  # getrusage would give a child its parent's peak
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turns every way in which memory runs out into a ResourceError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("allocate memory", "out of memory")
        if isinstance(error, MemoryError) or any(word in str(error).lower() for word in words):
            raise ResourceError(
                "memory ran out; the model is unchanged: try again with a smaller micro-batch "
                "(--micro-batch-size), or with other programs closed"
            ) from error
        raise

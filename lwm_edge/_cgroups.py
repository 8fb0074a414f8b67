"""Finds the cgroups, of version 1 or 2, that this process is in; see cgroups(7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def levels(controller: str) -> Iterator[tuple[int, Path]]:
    """Yields the version and folder of each cgroup that may limit this process, innermost first."""
    try:
        lines = _MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            version, root = 1, ROOT / controllers
        elif not controllers:
            version, root = 2, ROOT
        else:
            continue
        folder = root / path.lstrip("/")
        for level in (folder, *folder.parents):
            if level.is_relative_to(root):
                yield version, level

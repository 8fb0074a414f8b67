"""What the process uses, and what it may still take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lwm_edge import memory
from lwm_edge.errors import ResourceError
from lwm_edge.memory import (
    available_memory_bytes,
    out_of_memory_explained,
    peak_rss_bytes,
    reset_peak_rss,
    rss_bytes,
)

MIB = 2**20


def test_the_high_water_mark_follows_what_was_used_and_can_be_reset() -> None:
    if not reset_peak_rss():
        pytest.skip("this kernel has no /proc/self/clear_refs")
    before = peak_rss_bytes()
    block = np.ones(64 * MIB, dtype=np.uint8)
    used = peak_rss_bytes() - before
    assert 60 * MIB < used < 90 * MIB
    del block
    assert peak_rss_bytes() - before > 60 * MIB
    reset_peak_rss()
    assert abs(peak_rss_bytes() - rss_bytes()) < 4 * MIB


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("9:cpu:/\n4:memory:/app/job\n0::/\n", {"memory/app/memory": ("limit_in_bytes", "usage_in_bytes")}),
        ("0::/app/job\n", {"app/memory": ("max", "current")}),
    ],
)
def test_a_cgroups_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict[str, tuple[str, str]]
) -> None:
    (tmp_path / "memory/app/job").mkdir(parents=True)
    (tmp_path / "app/job").mkdir(parents=True)
    for stem, (limit, use) in files.items():  # of the cgroup around this process's own
        (tmp_path / f"{stem}.{limit}").write_text(f"{100 * MIB}\n")
        (tmp_path / f"{stem}.{use}").write_text(f"{30 * MIB}\n")
    own = "memory/app/job/memory.limit_in_bytes" if "memory:" in membership else "app/job/memory.max"
    (tmp_path / own).write_text("max\n")
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")
    assert available_memory_bytes() == 70 * MIB


def test_running_out_of_memory_is_a_resource_error() -> None:
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried ...")):
        with pytest.raises(ResourceError, match="unchanged"), out_of_memory_explained():
            raise error
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_explained():
        raise RuntimeError("a shape is wrong")

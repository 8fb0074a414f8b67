"""The usable processors are those that the cgroup and the affinity allow, not all that the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lwm_edge import _cgroups
from lwm_edge.processors import usable_processors


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts this process into the cgroup a/b of a made-up machine with eight processors."""
    monkeypatch.setattr(_cgroups, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(_cgroups, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("inner", "outer", "processors"),
    [
        ("max 100000", "max 100000", 8),
        ("150000 100000", "max 100000", 2),
        ("max 100000", "300000 100000", 3),
        ("50000 100000", "300000 100000", 1),
        ("1600000 100000", "max 100000", 8),
        ("nonsense", "max 100000", 8),
    ],
)
def test_cgroups_of_version_2(cgroup: Path, inner: str, outer: str, processors: int) -> None:
    write(cgroup / "membership", "0::/a/b\n")
    write(cgroup / "cgroup/a/b/cpu.max", inner)
    write(cgroup / "cgroup/a/cpu.max", outer)
    assert usable_processors() == processors


@pytest.mark.parametrize(("quota", "processors"), [("-1", 8), ("250000", 3)])
def test_cgroups_of_version_1(cgroup: Path, quota: str, processors: int) -> None:
    write(cgroup / "membership", "3:cpu,cpuacct:/a/b\n2:memory:/\n")
    write(cgroup / "cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", quota)
    write(cgroup / "cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000")
    assert usable_processors() == processors


def test_no_cgroups(cgroup: Path) -> None:
    assert usable_processors() == 8

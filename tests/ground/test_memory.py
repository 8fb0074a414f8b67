"""These tests measure the memory that a process uses, gives back, and may still take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lwm_edge import IncrementConfig, _cgroups, freed_memory, memory
from lwm_edge.errors import ResourceError
from lwm_edge.freed_memory import drop_mapped_pages, freed_memory_kept, mapped_from
from lwm_edge.increment.plan import memory_limit
from lwm_edge.memory import (
    available_memory_bytes,
    out_of_memory_explained,
    peak_rss_bytes,
    reset_peak_rss,
    resident_parts,
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
    for stem, (limit, use) in files.items():  # files of the parent of this process's cgroup
        (tmp_path / f"{stem}.{limit}").write_text(f"{100 * MIB}\n")
        (tmp_path / f"{stem}.{use}").write_text(f"{30 * MIB}\n")
    own = "memory/app/job/memory.limit_in_bytes" if "memory:" in membership else "app/job/memory.max"
    (tmp_path / own).write_text("max\n")
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(_cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(_cgroups, "_MEMBERSHIP", tmp_path / "membership")
    assert available_memory_bytes() == 70 * MIB


_ALLOCATION = """
import sys
import numpy as np
from lwm_edge.memory import rss_bytes
from lwm_edge.freed_memory import bound_allocator, freed_memory_kept

if sys.argv[1] == "ours" and not bound_allocator():
    raise SystemExit("not glibc")
before = rss_bytes()
with freed_memory_kept(sys.argv[2] == "keep"):
    for _ in range(2):
        blocks = [np.ones(2**20, dtype=np.uint8) for _ in range(64)]
        last = np.ones(2**10, dtype=np.uint8)
        del blocks
    kept = rss_bytes() - before
print(kept // 2**20, (rss_bytes() - before) // 2**20)
"""


@pytest.mark.parametrize(("whose", "mode", "kept"), [("ours", "keep", True), ("ours", "give back", False)])
def test_freed_memory_is_kept_only_on_request(whose: str, mode: str, kept: bool) -> None:
    done = subprocess.run([sys.executable, "-c", _ALLOCATION, whose, mode], capture_output=True, text=True)
    if "not glibc" in done.stderr:
        pytest.skip("the allocator is not glibc's")
    inside, after = (int(word) for word in done.stdout.split())
    assert (inside > 50) is kept
    assert after < 10  # all of it is given back in the end


_LIBRARIES = """
import torch
from lwm_edge.memory import resident_parts
from lwm_edge.freed_memory import bound_allocator, drop_library_pages

def mapped():
    return resident_parts()[1] // 2**20

image = torch.ones(1, 3, 32, 32)
kernel = torch.ones(8, 3, 3, 3)
first = torch.conv2d(image, kernel)
before = mapped()
drop_library_pages()
not_ours = mapped()
bound_allocator()
drop_library_pages()
ours = mapped()
assert torch.equal(torch.conv2d(image, kernel), first)
print(before, not_ours, ours, mapped())
"""


def test_pages_of_libraries_are_given_back_in_a_process_of_ours_and_read_again_when_needed() -> None:
    if not Path("/proc/self/smaps").exists():
        pytest.skip("this system does not say what is mapped")
    done = subprocess.run([sys.executable, "-c", _LIBRARIES], capture_output=True, text=True, check=True)
    before, not_ours, ours, again = (int(word) for word in done.stdout.split())
    assert before > 60 and abs(not_ours - before) < 5
    assert ours < before - 40
    assert ours < again < before  # the convolution read the pages that it needs


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Writes a file with one tensor of 4 MiB, which takes up many pages."""
    save_file({"numbers": torch.arange(2**20, dtype=torch.float32)}, tmp_path / "numbers.safetensors")
    return tmp_path / "numbers.safetensors"


def _mapped_bytes() -> int:
    parts = resident_parts()
    assert parts is not None
    return parts[1]


@pytest.fixture
def mapped(numbers: Path) -> Tensor:
    if not Path("/proc/self/pagemap").exists():
        pytest.skip("this system does not say which pages belong to a file")
    return load_file(numbers)["numbers"]


def test_pages_of_a_file_are_given_back_and_read_again(mapped: Tensor, numbers: Path) -> None:
    expected = torch.arange(2**20, dtype=torch.float32)
    assert torch.equal(mapped, expected)
    before = _mapped_bytes()
    (picked,) = mapped_from(numbers, [mapped])
    assert picked is mapped
    drop_mapped_pages([picked])
    assert before - _mapped_bytes() > 3 * MIB
    assert torch.equal(mapped, expected)


def test_memory_that_belongs_to_no_file_stays_as_it_is(mapped: Tensor, numbers: Path) -> None:
    ours = torch.arange(2**20, dtype=torch.float32)
    drop_mapped_pages([ours])
    assert torch.equal(ours, torch.arange(2**20, dtype=torch.float32))
    assert mapped_from(numbers, [ours]) == ()
    assert mapped_from(numbers.with_name("another"), [mapped]) == ()


def test_a_files_pages_that_were_written_to_stay(mapped: Tensor) -> None:
    expected = torch.arange(2**20, dtype=torch.float32)
    for index in (2**17, 2**19, 2**19 + 1):
        expected[index] = mapped[index] = -1.0
    mapped.sum()
    before = _mapped_bytes()
    drop_mapped_pages([mapped])
    assert before - _mapped_bytes() > 3 * MIB  # the pages in between were given back
    assert torch.equal(mapped, expected)


def test_no_page_is_given_back_if_the_system_does_not_say_which(
    mapped: Tensor, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    monkeypatch.setattr(freed_memory, "_drop_pages", lambda start, end: dropped.append(end - start))
    mapped.sum()
    monkeypatch.setattr(freed_memory, "_PAGEMAP", tmp_path / "none")
    drop_mapped_pages([mapped])
    monkeypatch.setattr(freed_memory, "_PAGEMAP", numbers)  # too short for these addresses
    drop_mapped_pages([mapped])
    monkeypatch.setattr(psutil.Process, "memory_maps", _unreadable)
    assert mapped_from(numbers, [mapped]) == () and not dropped
    monkeypatch.undo()
    monkeypatch.setattr(freed_memory, "_drop_pages", lambda start, end: dropped.append(end - start))
    drop_mapped_pages([mapped])
    assert dropped


def _unreadable(process: object, grouped: bool) -> None:
    raise psutil.AccessDenied


def test_the_allocator_of_somebody_elses_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory, "_set_allocator", lambda *settings: pytest.fail("it was set"))
    monkeypatch.setattr(freed_memory, "_processes_of_ours", set())  # other tests may have added this process
    with freed_memory_kept(True):
        pass


def test_running_out_of_memory_is_a_resource_error() -> None:
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried ...")):
        with pytest.raises(ResourceError, match="unchanged"), out_of_memory_explained():
            raise error
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_explained():
        raise RuntimeError("a shape is wrong")


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides /proc/meminfo and /proc/stat, as systemd's `ProcSubset=pid` does, and every cgroup."""

    def missing(*arguments: object, **options: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/meminfo")

    for name in ("virtual_memory", "Process"):
        monkeypatch.setattr(psutil, name, missing)
    monkeypatch.setattr(_cgroups, "_MEMBERSHIP", tmp_path / "none")


def test_without_proc_the_kernel_is_asked(no_proc: None) -> None:
    assert memory.available_memory_is_known() and available_memory_bytes() > MIB
    assert memory.tree_rss_bytes() == 0


def test_a_machine_that_says_nothing_about_its_memory_is_assumed_to_have_some(
    no_proc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: -1 if "AVPHYS" in name else 4096)
    assert not memory.available_memory_is_known()
    limit, source = memory_limit(IncrementConfig())
    assert limit - rss_bytes() < 257 * MIB
    assert source == (
        "this system does not say how much memory is free, so 512 MiB is assumed, and 50% of it may be used; "
        "pass --max-memory to set the limit"
    )


def test_a_cgroup_without_a_limit_is_ignored(
    no_proc: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: -1 if "AVPHYS" in name else 4096)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text("0\n")
    (tmp_path / "none").write_text("4:memory:/\n")
    monkeypatch.setattr(_cgroups, "ROOT", tmp_path)
    assert available_memory_bytes() == memory.ASSUMED_BYTES

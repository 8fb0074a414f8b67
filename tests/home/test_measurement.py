"""Memory is measured as the report says, and networks and images are counted as long as they are alive."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lwm_edge import _cgroups
from lwm_edge.home import measurement
from lwm_edge.home.measurement import SAMPLING_SECONDS, MemoryUse, count_alive
from lwm_edge.memory import cgroup_peak, reset_peak_rss
from lwm_edge.model.network import Network
from tests.support.networks import teacher_and_student

MIB = 2**20
KEPT: list[object] = []  # keeps objects alive as a leak would, beyond the end of a function


@pytest.fixture(autouse=True)
def _kept(_count_only_where_counts_matter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces KEPT once older objects are excluded from the search, so that KEPT itself is searched."""
    monkeypatch.setattr(sys.modules[__name__], "KEPT", [])


def images_found(make: Callable[[], object]) -> int:
    """Counts the images that a measurement finds if they are made after the measurement has begun."""
    teacher, _ = teacher_and_student()
    with MemoryUse.measured() as use:
        KEPT.append(make())
        return use.report(28, student=teacher).images_alive


def test_peaks_follow_what_was_used_and_say_how_they_were_taken() -> None:
    if not reset_peak_rss():
        pytest.skip("this kernel has no /proc/self/clear_refs")
    teacher, _ = teacher_and_student()
    with MemoryUse.measured() as use:
        before = use.report(28, student=teacher)
        block = np.ones(64 * MIB, dtype=np.uint8)
        time.sleep(3 * SAMPLING_SECONDS)
        del block
        report = use.report(28, student=teacher)
    assert 60 * MIB < report.peak_rss_bytes - before.peak_rss_bytes < 90 * MIB
    assert before.peak_anonymous_bytes and report.peak_anonymous_bytes
    assert report.peak_anonymous_bytes - before.peak_anonymous_bytes > 50 * MIB
    assert report.peak_mapped_bytes and report.peak_tree_bytes >= report.peak_rss_bytes
    assert report.how.keys() == type(report).model_fields.keys() - {"how"}
    assert "reset at the start" in report.how["peak_rss_bytes"]


def test_on_a_gpu_the_peak_comes_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[None] = []
    _, student = teacher_and_student()
    with MemoryUse.measured() as use:
        assert use.report(28, student=student).peak_cuda_bytes is None or torch.cuda.is_initialized()
    monkeypatch.setattr(measurement, "_gpu_in_use", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(None))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 123)
    with MemoryUse.measured() as use:
        assert use.report(28, student=student).peak_cuda_bytes == 123
    assert len(resets) == 1


def test_child_processes_count_in_the_process_tree() -> None:
    script = "block = bytearray(64 * 2**20); print('ready', flush=True); input()"
    teacher, _ = teacher_and_student()
    with MemoryUse.measured() as use:
        before = use.report(28, student=teacher).peak_tree_bytes
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout and child.stdout.readline() == "ready\n"
            after = use.report(28, student=teacher)
            child.communicate("\n")
    assert after.peak_tree_bytes - before > 50 * MIB > after.peak_tree_bytes - before - 100 * MIB


@pytest.mark.parametrize(
    ("make", "images"),
    [
        (lambda: [np.zeros((5, 28, 28, 3), np.uint8)], 5),
        (lambda: {"hidden": (np.zeros((28, 28, 3), np.uint8),)}, 1),
        (lambda: type("Holder", (), {"x": ({1: [np.zeros((28, 28, 3))]},)})(), 1),
        (lambda: torch.zeros(4, 3, 32, 32), 4),
        (lambda: [torch.zeros(2, 28, 28, 3, dtype=torch.uint8)] * 3, 2),
        (lambda: [(pixels := np.zeros((6, 28, 28, 3), np.uint8)), pixels[0], pixels[1:, ::-1]], 6),
        (lambda: torch.zeros(64, 3, 11, 11), 0),  # a first convolution's kernels
        (lambda: [np.zeros((64, 3, 7, 7)), np.zeros((28, 28)), np.zeros((10, 64)), torch.zeros(8)], 0),
    ],
)
def test_images_are_found_whoever_holds_them(make: Callable[[], object], images: int) -> None:
    assert images_found(make) == images


def test_images_from_before_and_those_being_compared_do_not_count_as_left_behind() -> None:
    KEPT.append(np.zeros((5, 28, 28, 3), np.uint8))
    teacher, _ = teacher_and_student()
    with MemoryUse.measured() as use:
        compared = np.zeros((2, 28, 28, 3), np.uint8)
        KEPT.append(compared)
        assert use.report(28, compared, student=teacher).images_alive == 0
        assert use.report(28, student=teacher).images_alive == 2


def test_images_that_another_thread_is_about_to_let_go_do_not_count_as_left_behind() -> None:
    teacher, _ = teacher_and_student()
    with MemoryUse.measured() as use:
        KEPT.append(np.zeros((4, 28, 28, 3), dtype=np.uint8))
        done = threading.Timer(0.2, KEPT.clear)
        done.start()
        assert use.report(28, student=teacher).images_alive == 0
        done.join()


def test_the_weights_of_a_network_are_no_images() -> None:
    teacher, student = teacher_and_student()
    with MemoryUse.measured() as use:
        student.mapped = (torch.zeros(16, 3, 28, 28),)  # kernels as large as the images
        assert use.report(28, student=student).images_alive == 0
        KEPT.append(student.mapped[0].clone())
        assert use.report(28, student=student).images_alive == 16
    del teacher


def test_networks_are_counted() -> None:
    teacher, student = teacher_and_student()
    with MemoryUse.measured() as use:
        alone = use.report(28, student=student).teacher_networks
        another: list[Network] = [teacher_and_student()[0]]
        assert use.report(28, student=student).teacher_networks == alone + 1
        del another
        assert use.report(28, student=student).teacher_networks == alone
    assert {id(teacher), id(student)} <= {id(network) for network in count_alive().networks}


@pytest.mark.parametrize(
    ("membership", "folder", "file", "how"),
    [
        ("4:memory:/app\n0::/\n", "memory/app", "memory.max_usage_in_bytes", "since the cgroup began"),
        ("0::/app\n", "app", "memory.peak", "reset at the start"),
    ],
)
def test_the_peak_is_read_from_the_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, folder: str, file: str, how: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / file).write_text(f"{100 * MIB}\n")
    (tmp_path / "membership").write_text(membership)
    monkeypatch.setattr(_cgroups, "ROOT", tmp_path)
    monkeypatch.setattr(_cgroups, "_MEMBERSHIP", tmp_path / "membership")
    with cgroup_peak() as read:
        (tmp_path / folder / file).write_text(f"{30 * MIB}\n")  # as the kernel does after a reset
        peak, said = read()
    assert peak == 30 * MIB and file in said and how in said


def test_without_a_cgroup_there_is_no_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cgroups, "_MEMBERSHIP", tmp_path / "missing")
    with cgroup_peak() as read:
        assert read()[0] is None

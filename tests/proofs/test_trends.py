"""The verdict on a simulation allows growth within limits, and names every figure that grew beyond them."""

from __future__ import annotations

from typing import Any

import pytest

from lwm_edge.home.reports import MemoryReport
from lwm_edge.proofs.reports import SimulationStep
from lwm_edge.proofs.trends import find_problems, find_trends
from lwm_edge.wording import counted

MIB = 2**20
RSS = 400 * MIB


def step(increment: int, files: dict[str, int] | None = None, **changes: Any) -> SimulationStep:
    memory: dict[str, Any] = {
        "peak_rss_bytes": RSS,
        "peak_anonymous_bytes": None,
        "peak_mapped_bytes": 10 * increment * MIB,
        "peak_tree_bytes": RSS,
        "peak_cgroup_bytes": None,
        "peak_cuda_bytes": None,
        "teacher_networks": 1,
        "images_alive": 0,
        "how": {},
    }
    fixed = {"model.lwm": 1000, "receipt.json": 50}
    grown = {"classifier.onnx": 500 + 284 * increment, "labels.txt": 20 * increment}
    return SimulationStep(
        increment=increment,
        classes=6 + increment,
        file_bytes={**fixed, **grown, **(files or {})},
        onnx_bytes_expected=500 + 284 * increment,
        labels_bytes_expected=20 * increment,
        memory=MemoryReport(**(memory | {n: v for n, v in changes.items() if n in memory})),
        problems=changes.get("problems", ()),
        seconds=1.0,
    )


def verdict(steps: list[SimulationStep]) -> list[str]:
    return list(find_problems(steps, find_trends(steps)))


def test_growth_that_the_classes_explain_is_not_a_problem_and_slopes_are_exact() -> None:
    steps = [step(n) for n in range(1, 51)]
    trends = {trend.figure: trend for trend in find_trends(steps)}
    assert verdict(steps) == [] and all(trend.passed for trend in trends.values())
    assert trends["model.lwm"].slope_bytes_per_class == 0.0
    assert trends["all but ONNX and labels"].slope_bytes_per_class == 0.0
    onnx = trends["classifier.onnx"]
    assert onnx.slope_bytes_per_class == pytest.approx(284) == onnx.explained_bytes_per_class
    assert onnx.growth_bytes == 0 and onnx.last - onnx.second == 48 * 284
    assert trends["peak_mapped_bytes"].allowed_bytes is None
    assert "peak_cuda_bytes" not in trends


def test_a_file_that_grows_by_a_byte_is_named_with_its_growth() -> None:
    steps = [step(n, {"model.lwm": 1000 + (n == 50)}) for n in range(1, 51)]
    problems = verdict(steps)
    assert "the file model.lwm grew by 1 byte" in problems


def test_a_file_that_comes_and_goes_is_named() -> None:
    steps = [step(n, {"cache.bin": 9000} if n == 3 else {}) for n in range(1, 6)]
    assert "the length of the file cache.bin was not always the same" in verdict(steps)


@pytest.mark.parametrize("file", ["classifier.onnx", "labels.txt"])
def test_growth_that_the_classes_do_not_explain_is_named(file: str) -> None:
    honest = step(5).file_bytes[file]
    steps = [step(n, {file: honest + 1} if n == 5 else {}) for n in range(1, 9)]
    assert verdict(steps) == [f"the file {file} does not have the length that its classes require"]


@pytest.mark.parametrize("figure", ["peak_rss_bytes", "peak_cuda_bytes"])
@pytest.mark.parametrize(("growth", "passes"), [(-0.05, True), (0.0, True), (0.019, True), (0.025, False)])
def test_memory_may_rise_by_two_per_cent(figure: str, growth: float, passes: bool) -> None:
    figures: list[dict[str, Any]] = [{figure: round(RSS * (1 + growth * (n - 2) / 8))} for n in range(1, 11)]
    steps = [step(n, **changed) for n, changed in enumerate(figures, start=1)]
    problems = verdict(steps)
    assert (problems == []) is passes
    assert passes or problems[0].startswith(f"peak memory ({figure}) grew by 10,")


def test_the_first_increment_warms_up() -> None:
    assert verdict([step(1, peak_rss_bytes=2 * RSS), step(2), step(3)]) == []
    assert verdict([step(1, peak_rss_bytes=RSS // 2), step(2), step(3)]) == []


def test_a_problem_that_every_audit_finds_is_named_once() -> None:
    steps = [
        step(n, problems=(f"photo{n}.png ({counted(n, 'byte', 'bytes')}) is unexplained",))
        for n in (1, 2, 1000)
    ]
    assert verdict(steps) == ["after increment 1: photo1.png (1 byte) is unexplained"]

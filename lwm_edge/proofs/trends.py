"""Judges whether storage and memory stay constant over simulated increments.

For files, every length must be the same after every increment, to the byte; only classifier.onnx and
labels.txt grow, by exactly what their classes require. For resident and GPU memory, neither the rise of the
fitted line nor the rise from the second increment to the last may exceed a share (`MEMORY_TOLERANCE`) of the
second increment's peak. For memory, the first increment is left out, because libraries load and the allocator
claims memory during it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from statistics import linear_regression

from ..home.ownership import LABELS, ONNX
from ..wording import counted
from .reports import SimulationStep, Trend

MEMORY_TOLERANCE = 0.02
MIN_INCREMENTS = 3  # a warm-up, and two points for a line
STORAGE = "all but ONNX and labels"
_MEMORY_FIGURES = {  # whether each figure must stay constant; if not, it is only reported
    "peak_rss_bytes": True,
    "peak_cuda_bytes": True,
    "peak_anonymous_bytes": False,
    "peak_mapped_bytes": False,
    "peak_tree_bytes": False,
}


def storage_bytes(step: SimulationStep) -> int:
    """Adds up the lengths of all files but those that may grow."""
    return sum(size for name, size in step.file_bytes.items() if name not in (ONNX, LABELS))


def value_of(figure: str, step: SimulationStep) -> int:
    """Returns a trend's figure at one increment."""
    if figure == STORAGE:
        return storage_bytes(step)
    if figure in _MEMORY_FIGURES:
        return getattr(step.memory, figure) or 0
    return step.file_bytes.get(figure, 0)


def find_trends(steps: Sequence[SimulationStep]) -> tuple[Trend, ...]:
    """Finds the trends of storage, of each file, and of each memory figure that was always measured."""
    classes = [step.classes for step in steps]
    trends = [_constant(STORAGE, classes, [storage_bytes(step) for step in steps])]
    for name in sorted({name for step in steps for name in step.file_bytes}):
        sizes = [step.file_bytes.get(name, 0) for step in steps]
        if name == ONNX:
            trends.append(_explained(name, classes, sizes, [step.onnx_bytes_expected for step in steps]))
        elif name == LABELS:
            trends.append(_explained(name, classes, sizes, [step.labels_bytes_expected for step in steps]))
        else:
            trends.append(_constant(name, classes, sizes))
    for figure, is_condition in _MEMORY_FIGURES.items():
        values = [getattr(step.memory, figure) for step in steps]
        if None not in values:
            trends.append(_memory(figure, classes, values, is_condition))
    return tuple(trends)


def find_problems(steps: Sequence[SimulationStep], trends: Sequence[Trend]) -> Iterator[str]:
    """Yields one problem of each kind that the audits found, and one for each trend that failed."""
    seen = set()
    for step in steps:
        for problem in step.problems:
            kind = re.sub(r"\d[\d,]*( bytes?)?", "#", problem)
            if kind not in seen:
                seen.add(kind)
                yield f"after increment {step.increment}: {problem}"
    for trend in trends:
        if not trend.passed:
            yield _describe(trend)


def _describe(trend: Trend) -> str:
    growth = round(max(trend.growth_bytes, trend.last - trend.second))
    grown = counted(growth, "byte", "bytes")
    if trend.figure in _MEMORY_FIGURES:
        allowed = f"{trend.allowed_bytes:,.0f} are allowed"
        return f"peak memory ({trend.figure}) grew by {grown}; {allowed}"
    if trend.explained_bytes_per_class:
        return f"the file {trend.figure} does not have the length that its classes require"
    what = trend.figure if trend.figure == STORAGE else f"the file {trend.figure}"
    return f"{what} grew by {grown}" if growth > 0 else f"the length of {what} was not always the same"


def _constant(figure: str, classes: Sequence[int], sizes: Sequence[int]) -> Trend:
    slope, growth = _fit(classes[1:], sizes[1:])
    return Trend(
        figure=figure,
        second=sizes[1],
        last=sizes[-1],
        slope_bytes_per_class=slope,
        growth_bytes=growth,
        allowed_bytes=0.0,
        passed=len(set(sizes)) == 1,
    )


def _explained(figure: str, classes: Sequence[int], sizes: Sequence[int], expected: Sequence[int]) -> Trend:
    unexplained = [size - wanted for size, wanted in zip(sizes, expected, strict=True)]
    return _constant(figure, classes, unexplained).model_copy(
        update={
            "second": sizes[1],
            "last": sizes[-1],
            "slope_bytes_per_class": _fit(classes[1:], sizes[1:])[0],
            "explained_bytes_per_class": _fit(classes[1:], expected[1:])[0],
            "passed": not any(unexplained),
        }
    )


def _memory(figure: str, classes: Sequence[int], values: Sequence[int], is_condition: bool) -> Trend:
    slope, growth = _fit(classes[1:], values[1:])
    allowed = MEMORY_TOLERANCE * values[1]
    return Trend(
        figure=figure,
        second=values[1],
        last=values[-1],
        slope_bytes_per_class=slope,
        growth_bytes=growth,
        allowed_bytes=allowed if is_condition else None,
        passed=not is_condition or max(growth, values[-1] - values[1]) <= allowed,
    )


def _fit(classes: Sequence[int], values: Sequence[int]) -> tuple[float, float]:
    """Fits a line by least squares; returns its slope and its rise from the first class count to the last."""
    if len(set(values)) == 1:  # exactly 0, whatever the arithmetic rounds to
        return 0.0, 0.0
    slope = linear_regression(classes, values).slope
    return slope, slope * (classes[-1] - classes[0])

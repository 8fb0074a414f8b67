"""Writes numbers as a sentence needs them: with their nouns, or rounded so that they do not mislead."""

from __future__ import annotations

import math


def counted(count: int, one: str, many: str) -> str:
    """Writes a number with its noun, as in "1 class" or "2 classes"."""
    return f"{count:,} {one if count == 1 else many}"


def rounded_down(value: float, digits: int) -> float:
    """Rounds down to `digits` decimals, so that a value just below a limit is not shown as reaching it."""
    if not math.isfinite(value):
        return value
    scale = 10.0**digits
    return math.floor(value * scale + 1e-9) / scale  # without this, 0.29 would become 0.28


def percent_reached(share: float) -> str:
    """Writes a share as a percentage, rounded down because it is compared with a limit."""
    return f"{rounded_down(100 * share, 1):.1f}%"

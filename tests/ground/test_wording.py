"""Numbers are written with the right noun, and never rounded up to a limit that they miss."""

from __future__ import annotations

import math

import pytest

from lwm_edge.wording import counted, percent_reached, rounded_down


def test_a_number_is_written_with_its_noun() -> None:
    assert [counted(n, "cell", "cells") for n in (0, 1, 4)] == ["0 cells", "1 cell", "4 cells"]
    assert counted(1234, "photo", "photos") == "1,234 photos"


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (1, "100.0%"),
        (2499 / 2500, "99.9%"),
        (0.97, "97.0%"),
        (0.96999, "96.9%"),
        (0.29, "29.0%"),
        (0, "0.0%"),
    ],
)
def test_a_share_is_rounded_down(share: float, written: str) -> None:
    assert percent_reached(share) == written


def test_what_is_no_number_stays_so() -> None:
    assert math.isnan(rounded_down(math.nan, 3)) and math.isinf(rounded_down(math.inf, 3))

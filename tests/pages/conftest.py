"""Makes pages about a home with few or very many classes, the first of which have hostile names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from lwm_edge.home.home import Home
from lwm_edge.pages.facts import ClassFact, ConfusionFact, gather_facts
from lwm_edge.pages.report import render

HOSTILE = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror=document.title=1>',
    "{{ 7 * 7 }} {% raw %}",
    "W" * 64,
    "שלום\u202eabc",
    "$\\frac{1}{2}$ & co",
    "</style></svg></td>",
)
PageMaker = Callable[[int], Path]


@pytest.fixture
def make_page(home: Home, tmp_path: Path) -> PageMaker:
    """Returns a function that makes a page about a number of classes, the first with hostile names."""
    facts = gather_facts(home)

    def make(count: int) -> Path:
        names = [*HOSTILE, *(f"Class {i}" for i in range(count))][:count]
        classes = tuple(
            ClassFact(name, i % 2 == 0, i % 21, 20 if i % 5 else 0, "by the vendor")
            for i, name in enumerate(names)
        )
        confusions = tuple(ConfusionFact(a, b, 3, "by the vendor") for a, b in pairwise(names))
        entries = tuple(facts.ledger[0].model_copy(update={"increment": i}) for i in range(17))
        path = tmp_path / f"page{count}.html"
        render(home, path, replace(facts, classes=classes, confusions=confusions[:12], ledger=entries))
        return path

    return make

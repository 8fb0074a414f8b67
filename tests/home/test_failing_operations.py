"""Whichever file operation ends in an input/output error, callers get a result or one of our own errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.failing_verbs import FailingVerbs
from tests.support.hostile import published

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "failing-operations.json"
TRIED = 4  # operations of each verb, evenly spread, as each takes up to a few seconds; .ci/extended tries all


@pytest.mark.slow
def test_callers_get_only_our_own_errors_and_none_once_the_model_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verbs, tried = FailingVerbs(tmp_path, monkeypatch), 0
    for verb in verbs.names:
        count = verbs.operations(verb)
        for fails_at in {*(1 + number * count // TRIED for number in range(TRIED - 1)), count}:
            assert verbs.problem(verb, fails_at) is None, (verb, fails_at)
            tried += 1
    assert published(
        f"| an operation on files, even a read, that ends in EIO: eleven commands | {tried} | nothing |"
    )


def test_the_readme_states_how_many_operations_were_made_to_fail() -> None:
    verbs = json.loads(RESULTS.read_text())["verbs"]
    assert all(not found["problems"] and found["tried"] == found["operations"] for found in verbs.values())
    total, added = sum(found["tried"] for found in verbs.values()), verbs["add-classes"]["tried"]
    assert published(f"each of the {total:,} operations of these commands")
    assert published(f"({added} of them belong to `add-classes`)")

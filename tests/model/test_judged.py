"""The manifest records, in bounded space, how often classes were recognised when a device learnt them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lwm_edge.errors import BundleError
from lwm_edge.model.judged import Judged, with_judged, without_judged, without_row
from lwm_edge.model.manifest import decode, decode_text, encode, encoded_length
from tests.support.manifests import manifest

KNOWN = (Judged(0, 3, 4), Judged(2, 5, 5), Judged(3, 0, 8))


def test_figures_follow_their_classes() -> None:
    assert without_row(KNOWN, 2) == (Judged(0, 3, 4), Judged(2, 0, 8))
    assert without_row(KNOWN, 1) == (Judged(0, 3, 4), Judged(1, 5, 5), Judged(2, 0, 8))
    assert without_judged(KNOWN, 2) == (KNOWN[0], KNOWN[2])
    assert with_judged(KNOWN, [Judged(1, 6, 9), Judged(2, 1, 9)]) == (
        KNOWN[0],
        Judged(1, 6, 9),
        Judged(2, 1, 9),
        KNOWN[2],
    )
    assert with_judged(KNOWN, [Judged(2, 0, 0)]) == (KNOWN[0], KNOWN[2])  # no photo was judged, so no figure


def test_figures_are_outside_the_digest_and_change_no_length() -> None:
    without = manifest(increment_count=1)
    having = manifest(increment_count=1, judged=KNOWN[:1])
    assert having.model_digest == without.model_digest and having != without
    assert len(encode(having)) == len(encode(without))
    assert decode(encode(having), "here") == having
    older = json.loads(decode_text(encode(without)))  # as written by a release that kept no figures
    del older["judged"]
    text = json.dumps(older, separators=(",", ":")).encode()
    assert decode(text.ljust(encoded_length(8), b"\0"), "here").judged == ()


@pytest.mark.parametrize(
    ("judged", "problem"),
    [
        ([[2, 0, 1]], "a class that does not exist"),
        ([[1, 0, 1], [0, 0, 1]], "not in ascending order"),
        ([[1, 0, 1], [1, 0, 1]], "not in ascending order"),
        ([[1, 2, 1]], "more photos were recognised than were judged"),
        ([[1, 0, 0]], "greater than or equal to 1"),
        ([[1, 0, 2**31]], "less than or equal to"),
        ([[1, 0, 1, 0]], "judged.0"),
        ([[1, True, 1]], "not in the order or form"),
        ([{"class_index": 1, "right": 1, "photos": 1}], "not in the order or form"),
    ],
)
def test_impossible_figures_are_refused(judged: Any, problem: str) -> None:
    content = json.loads(decode_text(encode(manifest(increment_count=1)))) | {"judged": judged}
    content = {name: content[name] for name in json.loads(decode_text(encode(manifest())))}
    text = json.dumps(content, separators=(",", ":")).encode()
    with pytest.raises(BundleError) as refused:
        decode(text.ljust(encoded_length(8), b"\0"), "model.lwm")
    assert problem in str(refused.value)


def test_a_base_has_no_figures() -> None:
    with pytest.raises(ValueError, match="nothing has been changed yet"):
        manifest(judged=KNOWN[:1])

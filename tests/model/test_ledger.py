"""The ledger takes bounded space, and an edit is found unless the hash chain is recomputed too."""

from __future__ import annotations

import pytest

from lwm_edge.model.ledger import LEDGER_LENGTH, Ledger, LedgerEntry
from lwm_edge.model.manifest import decode_text, encode, encoded_length
from tests.model.test_manifest import entry
from tests.support.manifests import manifest

LARGEST = 2**53 - 1
CUSTODY_BYTES = 5 * 1024  # left for the custody record


def grown(increments: int, ledger: Ledger | None = None) -> Ledger:
    ledger = ledger or Ledger()
    for n in range(increments):
        ledger = ledger.with_entry(entry(n, labels_bytes=10 * n, peak_rss_bytes=1000 + n % 7))
    return ledger


@pytest.mark.parametrize("increments", [0, 1, LEDGER_LENGTH, LEDGER_LENGTH + 1, 40])
def test_an_honest_ledger_has_no_problem(increments: int) -> None:
    ledger = grown(increments)
    assert ledger.problems() == [] and len(ledger.latest) == min(increments, LEDGER_LENGTH)
    assert Ledger.model_validate_json(ledger.model_dump_json()).problems() == []


@pytest.mark.parametrize("place", [0, 7, -1])
@pytest.mark.parametrize("field", sorted(LedgerEntry.model_fields))
def test_an_edited_entry_is_found_and_later_increments_do_not_heal_it(field: str, place: int) -> None:
    ledger, latest = grown(40), list(grown(40).latest)
    latest[place] = latest[place].model_copy(update={field: 999})
    edited = ledger.model_copy(update={"latest": tuple(latest)})
    for broken in (edited, grown(3, edited), grown(2 * LEDGER_LENGTH, edited)):
        assert any("do not lead to the head" in problem for problem in broken.problems())


@pytest.mark.parametrize("kept", ["first", "maximum"])
@pytest.mark.parametrize("increments", [3, 40])
def test_an_edited_first_or_maximum_is_found_and_not_healed(kept: str, increments: int) -> None:
    ledger = grown(increments)
    smaller = getattr(ledger, kept).model_copy(update={"bundle_bytes": 0})
    for edited in (smaller, None):
        broken = ledger.model_copy(update={kept: edited})
        assert any("seal" in problem for problem in broken.problems())
        assert any("seal" in problem for problem in grown(40, broken).problems())


@pytest.mark.parametrize("digest", ["before", "head", "seal"])
def test_an_edited_digest_is_found(digest: str) -> None:
    assert grown(40).model_copy(update={digest: "a" * 64}).problems()


def test_an_entry_that_was_taken_out_is_found() -> None:
    ledger = grown(40)
    assert ledger.model_copy(update={"latest": ledger.latest[:-1]}).problems()
    assert ledger.model_copy(update={"latest": ledger.latest[1:]}).problems()


def test_a_chain_that_was_taken_out_is_found() -> None:
    bare = grown(40).model_copy(update={"before": None, "head": None, "seal": None})
    assert bare.problems() == ["the ledger's hash chain was removed"]


def test_an_older_releases_ledger_without_a_chain_is_accepted_and_chained_from_then_on() -> None:
    old = Ledger(first=entry(0), maximum=entry(2), latest=(entry(0), entry(1), entry(2)))
    assert old.problems() == []
    chained = grown(LEDGER_LENGTH, old)
    assert chained.head and chained.problems() == []


def test_a_figure_that_was_not_measured_changes_no_link() -> None:
    with_none = Ledger().with_entry(entry(0, peak_cuda_bytes=None))
    assert with_none.head == Ledger().with_entry(entry(0)).head
    assert with_none.head != Ledger().with_entry(entry(0, peak_cuda_bytes=0)).head


def test_a_maximum_ignores_figures_that_were_not_measured() -> None:
    ledger = Ledger().with_entry(entry(0, images_alive=3)).with_entry(entry(1, labels_bytes=5))
    assert ledger.maximum == entry(1, images_alive=3, labels_bytes=5)


@pytest.mark.parametrize("capacity", [1, 32, 256])
def test_the_largest_ledger_leaves_room_for_a_custody_record(capacity: int) -> None:
    fields = dict.fromkeys(LedgerEntry.model_fields, LARGEST) | {"seconds": 1.2345678901234567e-100}
    ledger = Ledger()
    for _ in range(2 * LEDGER_LENGTH):
        ledger = ledger.with_entry(LedgerEntry(**fields))
    names = tuple(f"{n:03}".ljust(64, "x") for n in range(capacity))
    full = manifest(
        capacity=capacity,
        class_names=names,
        shipped_classes=1,
        recipe="r" * 64,
        architecture="a" * 64,
        parent_digest="a" * 64,
        increment_count=10**9,
        ledger=ledger,
    )
    assert len(decode_text(encode(full))) <= encoded_length(capacity) - CUSTODY_BYTES

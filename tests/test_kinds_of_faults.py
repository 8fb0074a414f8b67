"""The table of kinds of faults in tests/README.md states how many cases of each kind the tests try."""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import pytest

from tests.base import test_checkpoint, test_rehearsal, test_start
from tests.cli import test_elsewhere as test_commands_elsewhere
from tests.cli import test_interruption, test_settings, test_texts
from tests.custody import test_keys
from tests.ground import test_elsewhere, test_memory, test_reading, test_storage
from tests.home import test_hostile_disks
from tests.increment import test_resume, test_stopping
from tests.model import test_network
from tests.photos import test_class_names, test_cost, test_decoder
from tests.proofs import test_audited_bytes, test_hidden_content, test_verification
from tests.support.hostile import published

Tests = ModuleType | tuple[ModuleType, str]
KINDS: dict[str, tuple[Tests, ...]] = {
    "data hidden in the files of a home": (test_hidden_content, test_audited_bytes),
    "a key, signature or bundle that was replaced or forged": (test_verification, test_keys),
    "a class name that looks like another one": ((test_class_names, "look_alike"),),
    "a pipe, socket, device or folder in place of a file": (test_reading,),
    "a lock that is held, replaced or forked; a umask; another user's folder": (
        *((test_storage, word) for word in ("lock", "umask", "superuser")),
    ),
    "a photo that costs too much, or whose metadata is odd": (test_cost, test_decoder),
    "settings that are misspelt, and folders that a machine lacks": (test_settings,),
    "names and paths in other locales and encodings": (test_texts,),
    "disks that are full, read-only, failing, or without links, locks or syncs": (test_hostile_disks,),
    "a system without some features of Linux (Windows, macOS)": (test_elsewhere, test_commands_elsewhere),
    "an interruption at any moment": (test_interruption, test_stopping),
    "training that is continued or diverges": (test_resume,),
    "pages of memory that may be freed, and pages that may not": (test_memory,),
    "a vendor's own network that has a fault": (test_rehearsal,),
    "a checkpoint or downloaded weights that are damaged, odd or hostile": (test_checkpoint, test_start),
    "blocks of a network that overwrite their input": ((test_network, "in_place"),),
}


def cases(tests: Tests) -> int:
    """Counts the cases of a module's tests; with a word, only of tests that have it in their names."""
    module, word = tests if isinstance(tests, tuple) else (tests, "")
    found = [test for name, test in vars(module).items() if name.startswith("test_") and word in name]
    return sum(prod(len(list(mark.args[1])) for mark in _parametrized(test)) for test in found)


def _parametrized(test: Any) -> list[Any]:
    return [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_states_how_many_cases_are_tried(kind: str) -> None:
    tried = sum(map(cases, KINDS[kind]))
    assert tried > 1 and published(f"| {kind} | {tried} |"), tried

"""These tests use torch."""

from pathlib import Path

import pytest

from lwm_edge import init_home, open_home
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.home.home import Home
from lwm_edge.model.bundle import open_bundle, save_bundle
from tests.support.autouse import (  # noqa: F401
    _count_only_where_counts_matter,
    _same_random_numbers,
)


@pytest.fixture
def measured_home(tmp_path: Path) -> Home:
    """Makes a home of the demo's base, as if its vendor had measured 94% accuracy on 300 photos."""
    base = open_bundle(BASE_BUNDLE)
    arrays = base.arrays()
    arrays["measured.right"][:6], arrays["measured.total"][:6] = 47, 50
    arrays["measured.right_solved"][:6] = 46
    save_bundle(tmp_path / "measured.lwm", arrays, base.manifest)
    init_home(tmp_path / "measured.lwm", tmp_path / "measured")
    return open_home(tmp_path / "measured")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Makes an empty inbox."""
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    """Returns a path for the folder of used photos."""
    return tmp_path / "taught"

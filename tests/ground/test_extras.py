"""A library of an extra that is missing or broken is reported with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwm_edge.errors import ConfigError
from lwm_edge.extras import load_library


def test_an_installed_library_is_loaded() -> None:
    assert load_library("json.decoder", "this test needs").JSONDecoder


def test_a_missing_library_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_library("no_such_library.part", "the plot needs")
    assert caught.value.message == (
        "the plot needs no_such_library; install it with: pip install no_such_library"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise AttributeError('_ARRAY_API not found')", "_ARRAY_API not found"),
        ("raise SystemError('built for NumPy 1.\\nMore lines follow.')", "built for NumPy 1"),
    ],
)
def test_a_broken_library_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, why: str
) -> None:
    (tmp_path / "broken_library.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_library("broken_library", "cameras need", "broken-library-headless")
    assert caught.value.message == (
        f"cameras need broken-library-headless, and it cannot be loaded here ({why}); "
        "a newer version may work: pip install --upgrade broken-library-headless"
    )


def test_running_out_of_memory_is_no_broken_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large_library.py").write_text("raise MemoryError")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MemoryError):
        load_library("large_library", "the plot needs")

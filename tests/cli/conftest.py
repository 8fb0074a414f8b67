"""These tests use torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lwm_edge.cli import commands
from tests.support.autouse import (  # noqa: F401
    _count_only_where_counts_matter,
    _same_random_numbers,
)


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LWM_EDGE_HOME", raising=False)

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["lwm-edge", *map(str, arguments)])
        code: Any = 0
        try:
            commands.main()
        except SystemExit as end:
            code = end.code or 0
        return Result(code, *capfd.readouterr())

    return call

"""Makes each operation on files fail in turn: `python benchmarks/failing_operations.py RESULTS.json`.

The gate (tests/home/test_failing_operations.py) tries six operations of each command ("verb"). This script
makes every operation of every verb, reads included, fail once with an input/output error (EIO). Callers must
get a result or an error from `lwm_edge.errors`, and no error once the new model is in place.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from provenance import provenance

import lwm_edge
from lwm_edge import storage
from tests.support.failing_verbs import FailingVerbs


def try_verb(verbs: FailingVerbs, verb: str, every: int) -> dict[str, Any]:
    """Makes the operations of a verb fail, one in each run."""
    started, operations = time.monotonic(), verbs.operations(verb)
    tried = range(1, operations + 1, every)
    problems = {number: why for number in tried if (why := verbs.problem(verb, number))}
    return {
        "operations": operations,
        "tried": len(tried),
        "problems": problems,
        "seconds": round(time.monotonic() - started),
    }


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    verb: Annotated[list[str] | None, typer.Option(help="Verbs to try again; by default all.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Try only every N-th operation.")] = 1,
) -> None:
    """Makes operations fail, and writes how many were tried and which wrong errors callers saw."""
    torch.manual_seed(0)
    found = json.loads(results.read_bytes())["verbs"] if verb and results.exists() else {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        verbs = FailingVerbs(Path(folder), patch)
        for name in verb or verbs.names:
            found[name] = try_verb(verbs, name, every)
            print(f"{name}: {found[name]}", flush=True)
    content = {
        "command": f"python benchmarks/failing_operations.py {results.name}",
        "lwm_edge": lwm_edge.__version__,
        "verbs": found,
        **provenance(),
    }
    storage.write_file(results.absolute(), json.dumps(content, indent=1).encode() + b"\n")


if __name__ == "__main__":
    typer.run(main)

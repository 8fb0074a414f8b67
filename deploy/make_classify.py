#!/usr/bin/env python3
"""Copies lwm-edge's preprocessing into classify.py, which runs without lwm-edge.

Run this script after each change to pixels.py; a test fails if the copy is out of date.
"""

from __future__ import annotations

import ast
from pathlib import Path

PIXELS = Path(__file__).parents[1] / "lwm_edge" / "photos" / "pixels.py"
CLASSIFY = Path(__file__).with_name("classify.py")
BEGIN = "# Copied from lwm_edge/photos/pixels.py by make_classify.py; change it there.\n"
END = "# End of the copy.\n"


def with_copy(script: str, source: str) -> str:
    """Returns the script with a new copy of what follows the source's imports, between the two marks."""
    imports = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    copied = "".join(source.splitlines(keepends=True)[imports[-1].end_lineno :])
    before, _, rest = script.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{copied.strip()}\n\n\n{END}{after}"


if __name__ == "__main__":
    CLASSIFY.write_text(with_copy(CLASSIFY.read_text(), PIXELS.read_text()))

"""Reads the README pages, and finds their blocks, code spans, headings and tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "deploy/README.md", "examples/README.md", "benchmarks/README.md", "tests/README.md")


class Block(NamedTuple):
    """Holds a fenced block: the comment above it, the language after the fence, the text."""

    name: str
    language: str
    text: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """Returns a page as one line, without line breaks."""
    return " ".join(read(page).split())


def blocks(page: str) -> list[Block]:
    found = re.findall(r"(?:<!-- ([\w-]+) -->\n)?^```(\w*)\n(.*?)^```$", read(page), re.DOTALL | re.MULTILINE)
    return [Block(*parts) for parts in found]


def block(page: str, name: str) -> str:
    (found,) = (b.text for b in blocks(page) if b.name == name)
    return found


def commands(text: str) -> list[str]:
    """Lists the commands in a block, without comments."""
    lines = (re.sub(r"\s+#.*", "", line) for line in text.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def code_spans(page: str) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def anchors(page: str) -> set[str]:
    """Lists the headings' anchors, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(page: str, heading: str) -> str:
    pattern = rf"^#+ {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)"
    found = re.search(pattern, read(page), re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Lists the cells of every table row except the headings and the rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    kept = [
        line
        for line, following in zip(lines, [*lines[1:], ""], strict=True)
        if not line.startswith("|---") and not following.startswith("|---")
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]

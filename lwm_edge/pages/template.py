"""Fills in the template of a page, and escapes the text that goes into it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from .. import inspection
from ..characters import escaped
from ..extras import load_library
from ..records import utf8_text

_MIB = 2**20


def require_jinja2() -> Any:
    """Returns the library that fills in templates.

    Raises:
        ConfigError: jinja2 is not installed or cannot be loaded.
    """
    return load_library("jinja2", "a page needs")


def fill(template: Path, content: dict[str, Any]) -> bytes:
    """Fills in a template, and returns the page as UTF-8.

    Args:
        template: Path of the template.
        content: Values for the template, by the names that it uses.

    Raises:
        ConfigError: jinja2 is not installed or cannot be loaded.
    """
    jinja2 = require_jinja2()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"percent": _percent, "mib": mib, "name": _name}
    page = environment.from_string(inspection.read_regular(template).decode()).render(**content)
    return str(page).encode(errors="backslashreplace")


def mib(count: float) -> str:
    """Writes a number of bytes in MiB."""
    return f"{count / _MIB:,.1f} MiB" if count < 100 * _MIB else f"{count / _MIB:,.0f} MiB"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _name(text: str) -> Any:
    """Isolates text that somebody else chose: it cannot reverse the direction of the text around it."""
    shown = escaped(utf8_text(text))
    return require_jinja2().utils.markupsafe.Markup(f"<bdi>{html.escape(shown)}</bdi>")

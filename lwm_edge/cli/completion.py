"""Completes names on the command line: classes of the home, and recipes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import get_args

import typer

from ..learning.config import RecipeName
from .settings import find_home, read_file_config


def complete_class(context: typer.Context, incomplete: str) -> list[str]:
    """Lists the classes of the home that begin with what was typed; none if the home cannot be read."""
    with suppress(Exception):  # a shell must not print an error for a press of the tab key
        from .. import info

        given = context.params.get("home")
        names = info(find_home(given and Path(given), read_file_config())).class_names
        return [name for name in names if name.lower().startswith(incomplete.lower())]
    return []


def complete_recipe(incomplete: str) -> list[str]:
    """Lists the recipes that begin with what was typed."""
    return [name for name in ("auto", *get_args(RecipeName)) if name.startswith(incomplete)]

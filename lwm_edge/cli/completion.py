"""Completes the names of classes and recipes on the command line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import get_args

import typer

from ..learning.config import RecipeName
from .settings import find_home, read_file_config


def complete_class(context: typer.Context, incomplete: str) -> list[str]:
    """Lists the home's classes that begin with the typed text, or none if the home cannot be read."""
    with suppress(Exception):  # pressing the tab key must not print an error
        from .. import info

        given = context.params.get("home")
        names = info(find_home(given and Path(given), read_file_config())).class_names
        return [name for name in names if name.lower().startswith(incomplete.lower())]
    return []


def complete_recipe(incomplete: str) -> list[str]:
    """Lists the recipes that begin with the typed text."""
    return [name for name in ("auto", *get_args(RecipeName)) if name.startswith(incomplete)]

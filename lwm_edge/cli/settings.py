"""Reads the settings of the command line: the file `lwm-edge.toml`, and the location of the home."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import Field, ValidationError, field_validator

from .. import BaseConfig, IncrementConfig, PackConfig
from ..errors import ConfigError
from ..records import Record, Settings, invalid

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
CONFIG_FILE = "lwm-edge.toml"
HOME_VARIABLE = "LWM_EDGE_HOME"


class FileConfig(Record):
    """Holds the content of `lwm-edge.toml`: `home = "..."` and `[increment]`, for IncrementConfig."""

    home: Path | None = None
    increment: dict[str, Any] = Field(default={})

    @field_validator("home")
    @classmethod
    def _can_be_a_path(cls, home: Path | None) -> Path | None:
        if home and "\0" in str(home):
            raise ValueError("a path cannot contain NUL characters")
        return home


def read_file_config(folder: Path) -> FileConfig:
    """Reads `lwm-edge.toml` in a folder; without that file, all settings have their defaults.

    Raises:
        ConfigError: The file is not TOML, or has unknown settings.
    """
    path = folder / CONFIG_FILE
    try:
        return FileConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return FileConfig()
    except ValidationError as error:
        raise invalid(f"{path} has settings that lwm-edge cannot use", error) from None
    except (ValueError, OSError, RecursionError) as error:  # ValueError: bad TOML or UTF-8, a number too long
        raise ConfigError(f"{path} cannot be read: {error}; correct or remove it") from None


def find_home(home: Path | None, file_config: FileConfig) -> Path:
    """Finds the home's folder: the argument, $LWM_EDGE_HOME, lwm-edge.toml, then the platform's default."""
    variable = os.environ.get(HOME_VARIABLE)
    return (
        home
        or (Path(variable) if variable else None)
        or file_config.home
        or Path(platformdirs.user_data_dir("lwm-edge", appauthor=False))
    )


def increment_config(file_config: FileConfig, **given: Any) -> IncrementConfig:
    """Makes an IncrementConfig from `[increment]` in `lwm-edge.toml`; what is given overrides it.

    A given value of None counts as not given.

    Raises:
        ConfigError: Some settings are out of range; every one of them is listed.
    """
    return IncrementConfig(**{**file_config.increment, **_given(given)})


def base_config(**given: Any) -> BaseConfig:
    """Makes a BaseConfig from the settings that are not None.

    Raises:
        ConfigError: Some settings are out of range; every one of them is listed.
    """
    return BaseConfig(**_given(given))


def pack_config(**given: Any) -> PackConfig:
    """Makes a PackConfig from the settings that are not None.

    Raises:
        ConfigError: Some settings are out of range; every one of them is listed.
    """
    return PackConfig(**_given(given))


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def setting_help(config: type[Settings], name: str) -> str:
    """Returns a setting's help text in one line: description, bounds and default, as its field declares them.

    "Whether to start over" becomes "Start over", as an option's help would put it.
    """
    field = config.model_fields[name]
    summary = (field.description or "").partition("\n\n")[0].replace("\n", " ").removesuffix(".")
    summary = summary.removeprefix("Whether to ")
    summary = summary[:1].upper() + summary[1:]
    notes = [
        f"{words} {getattr(bound, kind):,}"
        for bound in field.metadata
        for kind, words in _BOUNDS.items()
        if hasattr(bound, kind)
    ]
    if not field.is_required() and field.default not in (None, False, ()):
        notes.append(f"default {field.default}")
    return f"{summary} ({', '.join(notes)})." if notes else f"{summary}."
